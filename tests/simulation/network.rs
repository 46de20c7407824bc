//! The links between replicas and Redis, for commands and for the reader of the log apart.

use std::{ops::Range, time::Duration};

use ably_clerk_auth::{clock::UnixMillis, store::LONGEST_WAIT};

use crate::{random::Random, replica::REPLICAS};

pub(crate) const RESPONSE_TIMEOUT: Duration = Duration::from_millis(100);
/// The reader of the log waits for an entry, and a second more.
const READ_TIMEOUT: Duration = LONGEST_WAIT.saturating_add(Duration::from_secs(1));

/// One of a replica's two links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Commands,
    Reader,
}

impl Line {
    pub(crate) const ALL: [Self; 2] = [Self::Commands, Self::Reader];

    /// How long it waits for an answer.
    pub(crate) fn timeout(self) -> Duration {
        match self {
            Self::Commands => RESPONSE_TIMEOUT,
            Self::Reader => READ_TIMEOUT,
        }
    }
}

/// What becomes of one command.
pub(crate) struct Fate {
    /// Milliseconds to Redis.
    pub(crate) there: u64,
    /// Milliseconds back.
    pub(crate) back: u64,
    pub(crate) is_request_lost: bool,
    pub(crate) is_answer_lost: bool,
    pub(crate) is_reset: bool,
}

#[derive(Clone)]
struct Link {
    down_until: UnixMillis,
    lossy_until: UnixMillis,
    /// Until when nothing arrives.
    lags_until: UnixMillis,
    /// Until when look-ups of live tokens may hang.
    look_ups_hang_until: UnixMillis,
    /// Since when new connections lead where they do.
    led_since: UnixMillis,
    /// Connections from before are closed.
    reset_at: UnixMillis,
    /// When the last connection was made.
    connected_at: UnixMillis,
    /// The node that new connections lead to instead of the master, and until when.
    old_master: Option<(usize, UnixMillis)>,
}

pub(crate) struct Network {
    links: Vec<[Link; 2]>,
    delays: Range<u64>,
    slow_until: UnixMillis,
    is_calm: bool,
}

impl Network {
    pub(crate) fn new(random: &mut Random) -> Self {
        let link = Link {
            down_until: UnixMillis(0),
            lossy_until: UnixMillis(0),
            lags_until: UnixMillis(0),
            look_ups_hang_until: UnixMillis(0),
            led_since: UnixMillis(0),
            reset_at: UnixMillis(0),
            connected_at: UnixMillis(0),
            old_master: None,
        };
        let longest = random.pick(&[1, 3, 20]);
        let links = vec![[link.clone(), link]; REPLICAS];
        Self { links, delays: 0..longest, slow_until: UnixMillis(0), is_calm: false }
    }

    fn link(&mut self, replica: usize, line: Line) -> &mut Link {
        &mut self.links[replica][usize::from(line == Line::Reader)]
    }

    pub(crate) fn fate(&mut self, replica: usize, line: Line, now: UnixMillis, random: &mut Random) -> Fate {
        let lag = u64::try_from(self.link(replica, line).lags_until.0 - now.0).unwrap_or(0);
        let is_lossy = now < self.link(replica, line).lossy_until;
        let delays = if now < self.slow_until { 0..70 } else { self.delays.clone() };
        let mut is_lost = || is_lossy && random.percent(15);
        let [is_request_lost, is_answer_lost, is_reset] = [is_lost(), is_lost(), is_lost()];
        let mut delay = || if self.is_calm { 0 } else { random.within(delays.clone()) };
        let (there, back) = (delay().max(lag), delay());
        Fate { there, back, is_request_lost, is_answer_lost, is_reset }
    }

    pub(crate) fn is_up(&mut self, replica: usize, line: Line, now: UnixMillis) -> bool {
        self.link(replica, line).down_until <= now
    }

    pub(crate) fn is_closed(&mut self, replica: usize, line: Line, connected_at: UnixMillis) -> bool {
        connected_at < self.link(replica, line).reset_at
    }

    /// Closes both connections of a replica.
    pub(crate) fn reset(&mut self, replica: usize, now: UnixMillis) {
        for line in Line::ALL {
            self.link(replica, line).reset_at = now;
        }
    }

    /// A replica connects.
    pub(crate) fn connects(&mut self, replica: usize, now: UnixMillis) {
        for line in Line::ALL {
            self.link(replica, line).connected_at = now;
        }
    }

    /// Whether both connections of a replica were made by `time`, and since its lines lead to where they do.
    pub(crate) fn is_split_since(&mut self, replica: usize, time: UnixMillis) -> bool {
        let [commands, reader] = Line::ALL.map(|line| self.link(replica, line).led_since);
        let connected_at = self.link(replica, Line::Commands).connected_at;
        commands.max(reader) < connected_at && connected_at <= time
    }

    pub(crate) fn cut(&mut self, replica: usize, line: Line, until: UnixMillis) {
        let link = self.link(replica, line);
        link.down_until = link.down_until.max(until);
    }

    pub(crate) fn look_ups_hang(&mut self, replica: usize, now: UnixMillis) -> bool {
        now < self.link(replica, Line::Commands).look_ups_hang_until
    }

    pub(crate) fn hang_look_ups(&mut self, replica: usize, until: UnixMillis) {
        let link = self.link(replica, Line::Commands);
        link.look_ups_hang_until = link.look_ups_hang_until.max(until);
    }

    pub(crate) fn lose_packets(&mut self, replica: usize, line: Line, until: UnixMillis) {
        let link = self.link(replica, line);
        link.lossy_until = link.lossy_until.max(until);
    }

    /// Until `until`, a replica reads nothing new of the log.
    pub(crate) fn lag(&mut self, replica: usize, until: UnixMillis) {
        self.link(replica, Line::Reader).lags_until = until;
    }

    pub(crate) fn slow_down(&mut self, until: UnixMillis) {
        self.slow_until = self.slow_until.max(until);
    }

    pub(crate) fn lead_to_old_master(
        &mut self,
        replica: usize,
        line: Line,
        node: usize,
        now: UnixMillis,
        until: UnixMillis,
    ) {
        let link = self.link(replica, line);
        (link.old_master, link.led_since) = (Some((node, until)), now);
    }

    /// The node that a new connection leads to, if it is not the master.
    pub(crate) fn node_of(&mut self, replica: usize, line: Line, now: UnixMillis) -> Option<usize> {
        self.link(replica, line).old_master.filter(|(_, until)| now < *until).map(|(node, _)| node)
    }

    /// The nodes that both lines lead to, if they differ.
    pub(crate) fn split(&mut self, replica: usize, master: usize, now: UnixMillis) -> Option<[usize; 2]> {
        let nodes = Line::ALL.map(|line| self.node_of(replica, line, now).unwrap_or(master));
        (nodes[0] != nodes[1]).then_some(nodes)
    }

    /// From now on nothing takes time. Without it a schedule would take longer to run.
    pub(crate) fn calm_down(&mut self) {
        self.is_calm = true;
    }
}
