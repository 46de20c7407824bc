//! What one replica knows, and where it is in the log. No I/O: [`Store`](super::Store) tells it what it learns, and what
//! becomes of Redis; it says what to write, and what to revoke.

use std::{collections::BTreeMap, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    ConnectionLost, Forgotten, Health, LiveToken, LogPage, LogPosition, OnForget, RecordOutcome, Reply, Restriction,
    Restrictions, SharedState, StoreLimits, StoredTask, Subject, TaskBacklog, TasksOf, live_tokens::LiveTokenIndex,
    restriction::SubjectKey, restrictions::Source, tasks::TaskQueue,
};
use crate::clock::UnixMillis;

/// The state of a replica.
pub(super) struct Replica {
    pub(super) restrictions: Restrictions,
    pub(super) live_tokens: LiveTokenIndex,
    /// Without Redis all tasks; else those that this replica has to perform because no restriction in Redis stands for them.
    pub(super) tasks: TaskQueue,
    on_forget: OnForget,
    tasks_of: TasksOf,
    /// The subjects of this replica's live tokens that look-ups in Redis may not have found, and when it noted them.
    unfound: Mutex<BTreeMap<SubjectKey, UnixMillis>>,
    progress: Mutex<Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    /// The data that this replica follows, up to the last entry of the log that was applied; the tasks as last read while ready.
    applied: SharedState,
    /// How often this replica started to follow Redis: a return is a start.
    starts: u64,
    /// An entry that the commands' connection saw and the log's did not yet, and since when.
    awaited: Option<(LogPosition, Instant)>,
    /// When this replica became ready. `None`: it is not.
    ready_at: Option<Instant>,
    outages: u64,
}

/// The loss of a Redis that answers.
pub(super) fn lost<T>(reason: &str) -> Reply<T> {
    Err(ConnectionLost(reason.to_owned()))
}

const OLDER_LOG: &str = "its log is older than before";
pub(super) const DIFFERENT_DATA: &str = "its two connections see different data";

impl Replica {
    /// Within this time the log's connection sees what the commands' connection saw.
    const LOG_LAG: Duration = Duration::from_secs(2);
    /// A failover loses less than what was written in this time.
    const FAILOVERS_LOSE: Duration = Duration::from_mins(1);
    /// How long a token can live after it was issued: an hour, after an exchange within two minutes, and clocks differ.
    const TOKENS_LIVE_FOR: Duration = Duration::from_mins(65);

    pub(super) fn new(limits: &StoreLimits, on_forget: OnForget, tasks_of: TasksOf) -> Self {
        Self {
            restrictions: Restrictions::new(limits),
            live_tokens: LiveTokenIndex::new(limits),
            tasks: TaskQueue::default(),
            on_forget,
            tasks_of,
            unfound: Mutex::default(),
            progress: Mutex::default(),
        }
    }

    pub(super) fn health(&self) -> Health {
        let progress = self.progress.lock();
        match (progress.ready_at, progress.outages) {
            (Some(_), _) => Health::Ready,
            (None, 0) => Health::Starting,
            (None, _) => Health::Degraded,
        }
    }

    pub(super) fn outages(&self) -> u64 {
        self.progress.lock().outages
    }

    pub(super) fn backlog(&self) -> TaskBacklog {
        let own = self.tasks.backlog();
        let TaskBacklog { count, oldest_due } = self.progress.lock().applied.backlog;
        TaskBacklog { count: count + own.count, oldest_due: oldest_due.into_iter().chain(own.oldest_due).min() }
    }

    /// Redis is connected: from its state on the replica follows the log. Redis may lack all that the replica knows.
    pub(super) fn begin(&self, state: SharedState) {
        self.restrictions.mark_all_unrecorded();
        let mut progress = self.progress.lock();
        (progress.applied, progress.awaited) = (SharedState { backlog: TaskBacklog::default(), ..state }, None);
        progress.starts += 1;
    }

    /// Applies a restriction. If it concerns a user, the user may have changed.
    pub(super) fn learn(&self, restriction: &Restriction, source: Source, now: UnixMillis) -> RecordOutcome {
        if let Subject::User(user) = &restriction.subject {
            (self.on_forget)(Forgotten::User(&restriction.tenant, user));
        }
        self.restrictions.apply(restriction, source, now)
    }

    /// Redis lacked these live tokens, or may have lacked them.
    pub(super) fn were_unfound<'a>(&self, live_tokens: impl IntoIterator<Item = &'a LiveToken>, now: UnixMillis) {
        let subjects = live_tokens.into_iter().flat_map(LiveToken::subjects);
        self.unfound.lock().extend(subjects.map(|subject| (subject, now)));
    }

    /// Forgets unfound tokens that have ended.
    pub(super) fn forget_unfound(&self, now: UnixMillis) {
        self.unfound.lock().retain(|_, noted_at| now < noted_at.after(Self::TOKENS_LIVE_FOR));
    }

    /// The restrictions that concern tokens which look-ups may not have found.
    pub(super) fn late(&self) -> Vec<Restriction> {
        self.restrictions.about(self.unfound.lock().keys())
    }

    /// The tasks that follow from restrictions, while tokens can live that were issued despite them.
    pub(super) fn tasks_of(&self, restrictions: &[Restriction], now: UnixMillis) -> Vec<StoredTask> {
        let may_concern = |restriction: &&Restriction| now < restriction.until.after(Self::TOKENS_LIVE_FOR);
        let start = self.progress.lock().starts;
        let tasks = |restriction| (self.tasks_of)(restriction, start, now);
        restrictions.iter().filter(may_concern).flat_map(tasks).collect()
    }

    /// Applies what was read from the log.
    pub(super) fn apply_log(&self, page: LogPage, now: UnixMillis) -> Reply<()> {
        let position = self.position();
        if page.last < Some(position) {
            return lost(OLDER_LOG);
        }
        if page.first > Some(position) {
            return lost("this replica fell behind the log");
        }
        let (positions, entries): (Vec<_>, Vec<_>) = page.entries.into_iter().unzip();
        for restriction in entries.iter().flatten() {
            self.learn(restriction, Source::Redis, now);
        }
        let mut progress = self.progress.lock();
        progress.applied.last = progress.applied.last.max(positions.last().copied().unwrap_or_default());
        progress.awaited.take_if(|(awaited, _)| positions.contains(awaited));
        Ok(())
    }

    /// The position from which the log is to be read on.
    pub(super) fn position(&self) -> LogPosition {
        self.progress.lock().applied.last
    }

    /// The state that the commands' connection saw, asked when this replica was at `position`. The log's connection has to
    /// see the same soon.
    pub(super) fn check(&self, state: &SharedState, position: LogPosition, now: Instant) -> Reply<()> {
        let mut progress = self.progress.lock();
        if state.data_id != progress.applied.data_id {
            return lost("its data was lost or replaced");
        }
        if state.last < position {
            return lost(OLDER_LOG);
        }
        progress.applied.backlog = state.backlog;
        match progress.awaited {
            Some((_, since)) if since + Self::LOG_LAG < now => return lost(DIFFERENT_DATA),
            None if state.last > progress.applied.last => progress.awaited = Some((state.last, now)),
            _ => {}
        }
        if progress.ready_at.is_some_and(|ready_at| ready_at + Self::FAILOVERS_LOSE < now) {
            // No failover loses their late tasks any more.
            self.unfound.lock().clear();
        }
        Ok(())
    }

    /// Everything up to the end of the log is applied, and Redis has everything that this replica knows. After an absence, users
    /// may have changed without notice.
    pub(super) fn becomes_ready(&self, now: Instant) {
        let is_return = self.outages() > 0;
        self.progress.lock().ready_at = Some(now);
        if is_return {
            (self.on_forget)(Forgotten::Everyone);
        }
    }

    /// Redis is lost.
    pub(super) fn lose(&self) {
        let mut progress = self.progress.lock();
        progress.outages += u64::from(progress.ready_at.take().is_some());
        progress.applied.backlog = TaskBacklog::default();
    }
}
