//! A simulated Redis, and the connections to it: a master whose writes reach its replica late, so that a failover loses the last
//! ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ably_clerk_auth::{
    clock::UnixMillis,
    store::{
        Claim, Commands, Connect, Connected, ConnectionLost, Health, LiveToken, LogPage, LogPosition, ReadLog,
        RecordOutcome, Reply, Restriction, SharedState, StoredTask, TokenHolder,
    },
    tenant::TenantName,
};
use async_trait::async_trait;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    moments,
    network::{Fate, Line, RESPONSE_TIMEOUT},
    node::{Data, Node, Recorded},
    random::Random,
    work,
    world::{World, lock},
};

/// Why Redis takes no writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoWrites {
    OutOfMemory,
    ReadOnly,
}

pub(crate) struct Redis {
    pub(crate) nodes: Vec<Node>,
    pub(crate) master: usize,
    no_writes: Vec<(NoWrites, UnixMillis)>,
    snapshot: Data,
    max_log: usize,
    max_ended: usize,
    /// Until when new entries are trimmed off the log at once.
    trims_until: UnixMillis,
    /// The last entry of the log when a run had scanned what is recorded.
    scanned_to: BTreeMap<usize, LogPosition>,
    /// The runs that follow the log: they have caught up.
    following: BTreeSet<usize>,
    /// How many commands it was sent.
    pub(crate) commands: usize,
}

impl Redis {
    pub(crate) fn new(random: &mut Random, max_ended: usize) -> Self {
        let max_log = random.pick(&[150, 400]);
        let nodes = vec![Node::new(Data::default(), max_log, max_ended)];
        Self {
            nodes,
            master: 0,
            no_writes: Vec::new(),
            snapshot: Data::default(),
            max_log,
            max_ended,
            trims_until: UnixMillis(0),
            scanned_to: BTreeMap::new(),
            following: BTreeSet::new(),
            commands: 0,
        }
    }

    pub(crate) fn master(&self) -> &Node {
        &self.nodes[self.master]
    }

    /// Whether a run follows the log, so that it has caught up.
    pub(crate) fn is_followed_by(&self, run: usize) -> bool {
        self.following.contains(&run)
    }

    pub(crate) fn max_log(&self) -> usize {
        self.max_log
    }

    /// Takes no writes until `until`.
    pub(crate) fn refuse_writes(&mut self, reason: NoWrites, until: UnixMillis) {
        self.no_writes.push((reason, until));
    }

    pub(crate) fn refuses_writes(&self, now: UnixMillis) -> Option<NoWrites> {
        self.no_writes.iter().find(|(_, until)| now < *until).map(|(reason, _)| *reason)
    }

    /// Saves the data for [`Self::restart_with_older_data`].
    pub(crate) fn save(&mut self) {
        self.snapshot = self.master().data.clone();
    }

    /// Promotes the replica. It lacks the writes of the last `lag`. The old master goes on until [`Self::stop`].
    pub(crate) fn fail_over(&mut self, lag: Duration, now: UnixMillis) -> usize {
        let old = self.master;
        let data = self.nodes[old].copy(lag, now);
        self.promote(data);
        old
    }

    pub(crate) fn restart_empty(&mut self) {
        self.replace_master(Data::default());
    }

    pub(crate) fn restart_with_older_data(&mut self) {
        self.replace_master(self.snapshot.clone());
    }

    /// Appends an entry that means nothing.
    pub(crate) fn append_any(&mut self, now: UnixMillis) -> LogPosition {
        self.nodes[self.master].append(None, now);
        self.master().data.last
    }

    /// Whether the log has an entry.
    pub(crate) fn has_entry(&self, position: LogPosition) -> bool {
        self.master().data.log.iter().any(|(known, _)| *known == position)
    }

    /// The same behind a proxy that keeps the connections. At first it holds back what appends to the log: whoever reads the
    /// log until then finds that it is older.
    /// Returns whether it happened: not if the entry that was read would stay.
    pub(crate) fn fail_over_behind_proxy(&mut self, read: LogPosition, lag: Duration, now: UnixMillis) -> bool {
        const HELD_BACK: Duration = Duration::from_millis(1200);
        let node = &mut self.nodes[self.master];
        let data = node.copy(lag, now);
        if data.log.iter().any(|(position, _)| *position == read) {
            return false;
        }
        node.data = data;
        node.uncopied.clear();
        node.is_held_until = now.after(HELD_BACK);
        true
    }

    /// The same, but the data is another, and its log goes on.
    pub(crate) fn replace_behind_proxy(&mut self, lag: Duration, id: u64, now: UnixMillis) {
        let node = &mut self.nodes[self.master];
        node.data = node.copy(lag, now);
        node.data.id = Some(id);
        node.uncopied.clear();
        node.append(None, now);
        node.copied = node.data.clone();
    }

    /// Until `until`, trims the log now and then before anybody can read its new entries.
    pub(crate) fn trim(&mut self, until: UnixMillis) {
        self.trims_until = self.trims_until.max(until);
    }

    /// Whether the log of a node has entries, from before `time`, that the log of another has not.
    pub(crate) fn has_more(&self, node: usize, other: usize, time: UnixMillis) -> bool {
        let is_before = |position: &LogPosition| i64::try_from(position.millis).unwrap() < time.0;
        let [log, others] = [node, other].map(|node| &self.nodes[node].data.log);
        let mut positions = log.iter().map(|(position, _)| position).filter(|position| is_before(position));
        positions.any(|position| others.iter().all(|(other, _)| other != position))
    }

    pub(crate) fn stop(&mut self, node: usize) {
        self.nodes[node].is_alive = false;
        self.nodes[node].changed.notify_waiters();
    }

    fn replace_master(&mut self, data: Data) {
        self.stop(self.master);
        self.promote(data);
    }

    fn promote(&mut self, data: Data) {
        self.nodes.push(Node::new(data, self.max_log, self.max_ended));
        self.master = self.nodes.len() - 1;
    }
}

/// Whether a replica stores this task at the end of its return.
pub(crate) fn is_of_return(task: &StoredTask) -> bool {
    task.id.contains("/late/")
}

/// Connects one run of a replica.
pub(crate) struct SimulatedConnect {
    pub(crate) world: Arc<World>,
    pub(crate) run: usize,
    pub(crate) replica: usize,
}

impl std::fmt::Debug for SimulatedConnect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "run {} of replica {}", self.run, self.replica)
    }
}

/// A connection to a node.
struct Connection {
    world: Arc<World>,
    run: usize,
    replica: usize,
    line: Line,
    node: usize,
    connected_at: UnixMillis,
    is_broken: AtomicBool,
}

/// What a command needs of Redis.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
    /// A write that appends to the log.
    Append,
}

#[async_trait]
impl Connect for SimulatedConnect {
    async fn connect(&self) -> Reply<Connected> {
        let connection = |line| {
            let node = {
                let master = lock(&self.world.redis).master;
                lock(&self.world.network).node_of(self.replica, line, self.world.now()).unwrap_or(master)
            };
            let (world, is_broken) = (Arc::clone(&self.world), AtomicBool::new(false));
            let connected_at = world.now();
            Connection { world, run: self.run, replica: self.replica, line, node, connected_at, is_broken }
        };
        lock(&self.world.network).connects(self.replica, self.world.now());
        lock(&self.world.redis).following.remove(&self.run);
        let (commands, log) = (connection(Line::Commands), connection(Line::Reader));
        commands.call(Access::Write, |_, _| ()).await?;
        log.call(Access::Read, |_, _| ()).await?;
        moments::connects(&self.world, self.replica);
        Ok(Connected { commands: Box::new(commands), log: Box::new(log) })
    }

    fn address(&self) -> String {
        "simulated".into()
    }
}

impl Connection {
    fn lost(&self, reason: &str) -> ConnectionLost {
        self.is_broken.store(true, Ordering::Relaxed);
        lock(&self.world.redis).following.remove(&self.run);
        self.world.trace(|| format!("replica {} lost {:?}: {reason}", self.replica, self.line));
        ConnectionLost(reason.into())
    }

    async fn stop_if_crashed(&self) {
        if !lock(&self.world.replicas).is_running(self.run) {
            std::future::pending::<()>().await;
        }
    }

    fn fate(&self) -> Fate {
        let now = self.world.now();
        self.world.random(|random| lock(&self.world.network).fate(self.replica, self.line, now, random))
    }

    /// Whether the log is trimmed as soon as something is recorded.
    fn is_trimmed(&self) -> bool {
        let may_be = self.world.now() < lock(&self.world.redis).trims_until;
        may_be && self.world.random(|random| random.percent(30))
    }

    fn is_ready(&self) -> bool {
        let replicas = lock(&self.world.replicas);
        replicas.running().any(|run| run.run == self.run && run.store.health() == Health::Ready)
    }

    fn is_up(&self) -> bool {
        lock(&self.world.network).is_up(self.replica, self.line, self.world.now())
    }

    /// Counts a command. More than any schedule needs are a loop without an end.
    async fn count(&self) {
        const MOST: usize = 200_000;
        let count = {
            let mut redis = lock(&self.world.redis);
            redis.commands += 1;
            redis.commands
        };
        if count == MOST {
            lock(&self.world.checker).violations.push("5: the calls to Redis do not end".into());
        }
        if count >= MOST {
            std::future::pending::<()>().await;
        }
    }

    /// Runs a command, unless the network or the node prevents it.
    async fn call<T: Send>(&self, access: Access, run: impl FnOnce(&mut Node, UnixMillis) -> T + Send) -> Reply<T> {
        if self.is_broken.load(Ordering::Relaxed) {
            return Err(ConnectionLost("used after it was lost".into()));
        }
        self.stop_if_crashed().await;
        self.count().await;
        let (sent, timeout) = (Instant::now(), self.line.timeout());
        let Fate { there, back, is_request_lost, is_answer_lost, is_reset } = self.fate();
        self.world.pause(there).await;
        self.stop_if_crashed().await;
        let is_held =
            access == Access::Append && self.world.now() < lock(&self.world.redis).nodes[self.node].is_held_until;
        if is_request_lost || is_held || !self.is_up() {
            sleep(timeout.saturating_sub(sent.elapsed())).await;
            self.stop_if_crashed().await;
            return Err(self.lost("timed out"));
        }
        let is_closed = lock(&self.world.network).is_closed(self.replica, self.line, self.connected_at);
        let result = {
            let mut redis = lock(&self.world.redis);
            let now = self.world.now();
            let refuses = redis.refuses_writes(now).filter(|_| access != Access::Read);
            let node = &mut redis.nodes[self.node];
            match refuses {
                _ if !node.is_alive || is_closed => Err("connection reset"),
                Some(NoWrites::OutOfMemory) => Err("OOM"),
                Some(NoWrites::ReadOnly) => Err("READONLY"),
                None => Ok(run(node, now)),
            }
        };
        if is_reset {
            return Err(self.lost("connection reset"));
        }
        self.world.pause(back).await;
        self.stop_if_crashed().await;
        if is_answer_lost || !self.is_up() || sent.elapsed() > timeout {
            sleep(timeout.saturating_sub(sent.elapsed())).await;
            self.stop_if_crashed().await;
            return Err(self.lost("answer timed out"));
        }
        result.map_err(|reason| self.lost(reason))
    }
}

#[async_trait]
impl ReadLog for Connection {
    async fn read(&mut self, after: LogPosition, wait: Duration) -> Reply<LogPage> {
        /// Few, so that a replica often needs several pages.
        const MAX_ENTRIES: usize = 3;
        self.stop_if_crashed().await;
        if wait.is_zero() && self.is_ready() {
            let violation = format!("5: replica {} is ready before it has read the log", self.replica);
            lock(&self.world.checker).violations.push(violation);
        }
        if wait.is_zero() {
            moments::reads_to_end(&self.world, self.replica).await;
            self.stop_if_crashed().await;
        } else {
            let mut redis = lock(&self.world.redis);
            redis.following.insert(self.run);
            if redis.scanned_to.get(&self.run).is_some_and(|scanned_to| after < *scanned_to) {
                let violation = format!("5: replica {} is ready before it has read the log to its end", self.replica);
                lock(&self.world.checker).violations.push(violation);
            }
        }
        let changed = {
            let redis = lock(&self.world.redis);
            let node = &redis.nodes[self.node];
            let has_none = node.data.log.back().is_none_or(|(last, _)| *last <= after);
            (has_none && node.is_alive).then(|| Arc::clone(&node.changed))
        };
        if let Some(changed) = changed {
            _ = timeout(wait, changed.notified()).await;
        }
        let page = self.call(Access::Read, |node, _| node.read(after, MAX_ENTRIES)).await?;
        if page.first.is_some_and(|first| first > after) {
            // The log is much shorter than a real one, so a busy moment can outrun its readers.
            lock(&self.world.faults).disturb(self.world.now(), self.world.now());
        }
        // Else the replica starts again, and applies nothing of this.
        let follows = page.first <= Some(after) && page.last >= Some(after);
        let mut checker = lock(&self.world.checker);
        for restriction in page.entries.iter().filter_map(|(_, entry)| entry.as_ref()).filter(|_| follows) {
            checker.hears(self.run, restriction);
        }
        drop(checker);
        Ok(page)
    }
}

#[async_trait]
impl Commands for Connection {
    async fn state(&self) -> Reply<SharedState> {
        let new_id = self.world.random(Random::next);
        if lock(&self.world.redis).is_followed_by(self.run) {
            lock(&self.world.checker).is_in_sync(self.run, self.world.now());
        }
        self.call(Access::Write, |node, now| node.state(new_id, now)).await
    }

    async fn restrictions(&self, cursor: u64) -> Reply<(Option<u64>, Vec<Restriction>)> {
        const PAGE: usize = 5;
        let cursor = usize::try_from(cursor).unwrap();
        if cursor == 0 {
            moments::begins_to_scan(&self.world, self.replica, self.run).await;
            self.stop_if_crashed().await;
        }
        let (next, page, last) = self
            .call(Access::Read, |node, _| {
                let (next, page) = node.scan(cursor, PAGE);
                (next.map(|next| u64::try_from(next).unwrap()), page, node.data.last)
            })
            .await?;
        lock(&self.world.redis).scanned_to.insert(self.run, last);
        moments::has_scanned(&self.world, self.replica, self.run);
        let mut checker = lock(&self.world.checker);
        for restriction in &page {
            checker.hears(self.run, restriction);
        }
        drop(checker);
        Ok((next, page))
    }

    async fn record(
        &self,
        restrictions: &[Restriction],
        tasks: &[StoredTask],
        tasks_if: RecordOutcome,
        by_clock: UnixMillis,
    ) -> Reply<Vec<Option<Restriction>>> {
        let keep = || {
            let mut checker = lock(&self.world.checker);
            for task in tasks {
                checker.task_is_kept(self.run, task);
            }
        };
        let described: Vec<_> = tasks.iter().map(|task| (&task.id, task.due.0)).collect();
        self.world.trace(|| format!("replica {} stores tasks {described:?}", self.replica));
        moments::records(&self.world, self.run, restrictions);
        let is_late = restrictions.is_empty() && tasks.iter().any(is_of_return);
        if is_late {
            moments::are_late_tasks_sent(&self.world, self.replica);
        } else if restrictions.is_empty() {
            keep();
        }
        let is_trimmed = self.is_trimmed();
        let is_on_return = !self.is_ready() && !restrictions.is_empty();
        self.call(Access::Append, |node, now| {
            let Recorded { before, written, has_new } = node.record(restrictions, tasks, tasks_if, by_clock, now);
            for restriction in &written {
                moments::is_recorded(&self.world, restriction);
            }
            if is_on_return && has_new {
                moments::lag_behind(&self.world, self.replica);
            }
            if is_late {
                // Until Redis has them, the replica is not ready.
                keep();
                moments::are_late_tasks_stored(&self.world, self.replica);
            }
            if is_trimmed {
                node.append(None, now);
                node.data.log.drain(..node.data.log.len() - 1);
            }
            before
        })
        .await
        .inspect(|_| {
            if is_on_return {
                moments::is_recorded_late(&self.world, self.replica);
            }
        })
    }

    async fn register(&self, live_tokens: &[LiveToken], now: UnixMillis) -> Reply<Vec<bool>> {
        if !self.is_ready() {
            moments::registers_again(&self.world, self.replica, live_tokens).await;
            self.stop_if_crashed().await;
        }
        self.call(Access::Write, |node, at| node.register(live_tokens, now, at)).await
    }

    async fn live_tokens(&self, tenant: &TenantName, holder: &TokenHolder, now: UnixMillis) -> Reply<Vec<LiveToken>> {
        if moments::look_up_hangs(&self.world, self.replica) {
            // Long enough for the replica to connect again meanwhile.
            sleep(4 * RESPONSE_TIMEOUT).await;
            self.stop_if_crashed().await;
            return Err(self.lost("timed out"));
        }
        self.call(Access::Read, |node, _| node.live_tokens(tenant, holder, now)).await
    }

    async fn claim(&self, claim: Claim<'_>, now: UnixMillis) -> Reply<Vec<StoredTask>> {
        self.call(Access::Write, |node, at| node.claim(claim, now, at)).await
    }

    async fn end_claim(&self, left: &StoredTask, retry_at: Option<UnixMillis>) -> Reply<()> {
        let StoredTask { id, due, .. } = left;
        self.world.trace(|| format!("replica {} ends the claim of {id}, due {}: {retry_at:?}", self.replica, due.0));
        if retry_at.is_some() {
            moments::puts_back(&self.world, left).await;
            self.stop_if_crashed().await;
        }
        self.call(Access::Write, |node, now| {
            if node.end_claim(left, retry_at, now) && retry_at.is_none() {
                lock(&self.world.checker).task_is_done(id);
                work::is_done(&self.world, id, *due);
            }
        })
        .await
    }
}
