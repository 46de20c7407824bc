//! What one replica knows, and where it is in the log. No I/O: [`Store`](super::Store) tells it what it learns, and what
//! becomes of Redis; it says what to write, and what to revoke.

use std::{
    collections::BTreeMap,
    mem, slice,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    Forgotten, LiveToken, LogEntry, LogPage, LogPosition, OnForget, QueuedTask, RecordOutcome, Restriction,
    Restrictions, SharedState, StoreError, StoreLimits, Subject, TaskBacklog, live_tokens::LiveTokenIndex,
    restriction::RestrictionKey, tasks::TaskQueue,
};
use crate::clock::{self, UnixMillis};

/// The state of a replica.
pub(super) struct Replica {
    pub(super) restrictions: Restrictions,
    pub(super) live_tokens: LiveTokenIndex,
    /// Without Redis all tasks; else copies of those that this replica stored, in case Redis loses them.
    pub(super) tasks: TaskQueue,
    pub(super) on_forget: OnForget,
    progress: Mutex<Progress>,
    telling: Mutex<()>,
    /// Restrictions whose tokens may have been missed.
    late: Mutex<BTreeMap<RestrictionKey, Restriction>>,
    /// Restrictions that were sent to Redis late, and whose answer has not come.
    unanswered: Mutex<BTreeMap<RestrictionKey, Restriction>>,
}

#[derive(Debug, Default)]
struct Progress {
    phase: Phase,
    /// The last entry of the log that was applied.
    position: LogPosition,
    data_id: String,
    /// The tasks in Redis.
    backlog: TaskBacklog,
    /// An entry that the commands' connection saw and the log's did not yet, and since when.
    awaited: Option<(LogPosition, UnixMillis)>,
    outages: u64,
}

/// Whether a replica is up to date with Redis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// Not yet.
    #[default]
    Starting,
    Following,
    /// Not since Redis was lost.
    Away,
}

/// Why Redis counts as lost although it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Loss {
    #[error("its data was lost or replaced")]
    OtherData,
    #[error("its log is older than before")]
    OlderLog,
    #[error("this replica fell behind the log")]
    Behind,
    #[error("its two connections see different data")]
    DifferentData,
}

impl Replica {
    /// Within this time the log's connection sees what the commands' connection saw.
    const LOG_LAG: Duration = Duration::from_secs(2);
    /// How long tokens can outlive the restriction despite which they were issued: an hour, after an exchange within two
    /// minutes, and clocks differ.
    const TOKENS_OUTLIVE_BY: Duration = Duration::from_mins(65);
    /// How long after its due time the copy of a task is kept that Redis has too: longer than Ably can make another replica
    /// wait, and than tokens live.
    const TASK_COPY_KEPT_FOR: Duration = Duration::from_mins(130);

    pub(super) fn new(limits: &StoreLimits, on_forget: OnForget) -> Self {
        Self {
            restrictions: Restrictions::new(limits),
            live_tokens: LiveTokenIndex::new(limits),
            tasks: TaskQueue::new(limits),
            on_forget,
            progress: Mutex::default(),
            telling: Mutex::default(),
            late: Mutex::default(),
            unanswered: Mutex::default(),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.progress().phase
    }

    pub(super) fn outages(&self) -> u64 {
        self.progress().outages
    }

    pub(super) fn backlog(&self) -> TaskBacklog {
        let progress = self.progress();
        if progress.phase == Phase::Following { progress.backlog } else { self.tasks.backlog() }
    }

    /// Redis is connected: from its state on the replica follows the log. Redis may lack all that the replica knows.
    pub(super) fn begin(&self, state: SharedState) {
        let SharedState { data_id, last, backlog } = state;
        let mut progress = self.progress();
        *progress = Progress { position: last, data_id, backlog, awaited: None, ..mem::take(&mut *progress) };
        drop(progress);
        self.restrictions.mark_all_unrecorded();
        self.tasks.mark_all_unstored();
    }

    /// Applies restrictions that this replica is told first, and keeps copies of the tasks that follow if one is new. Returns
    /// the restrictions that were known, and whether there was room for the copies.
    pub(super) fn tell(
        &self,
        restrictions: &[Restriction],
        tasks: &[QueuedTask],
        now: UnixMillis,
    ) -> (Vec<Option<Restriction>>, Result<(), StoreError>) {
        let _not_halfway = self.telling();
        let known: Vec<_> = restrictions.iter().map(|told| self.restrictions.apply(told, now)).collect();
        let copied = if follow_from_new(restrictions, &known) { self.tasks.add(tasks) } else { Ok(()) };
        for (told, outcome) in restrictions.iter().zip(RecordOutcome::of_all(restrictions, &known)) {
            self.forget_user_of(told);
            if outcome.counts() {
                self.restrictions.mark_unrecorded(slice::from_ref(told));
            }
            if copied.is_err() && outcome == RecordOutcome::New {
                self.revoke_late(told.clone(), now);
            }
        }
        (known, copied)
    }

    /// Some of what Redis may lack: tasks, and restrictions once it has all tasks that follow from them.
    pub(super) fn missing(&self, max: usize) -> (Vec<Restriction>, Vec<QueuedTask>) {
        let _not_halfway = self.telling();
        let tasks = self.tasks.unstored(max);
        let restrictions = if tasks.is_empty() { self.restrictions.unrecorded(max) } else { Vec::new() };
        (restrictions, tasks)
    }

    /// Applies a restriction that Redis has.
    fn learn(&self, restriction: &Restriction, now: UnixMillis) {
        self.forget_user_of(restriction);
        self.restrictions.hear(restriction, now);
    }

    /// The user may have changed.
    fn forget_user_of(&self, restriction: &Restriction) {
        if let Subject::User(user) = &restriction.subject {
            (self.on_forget)(Forgotten::User(&restriction.tenant, user));
        }
    }

    /// Redis answered to a record: `recorded` are the restrictions that were sent, `before` what Redis had.
    pub(super) fn recorded(&self, recorded: &[Restriction], before: &[Option<Restriction>], now: UnixMillis) {
        for (restriction, before) in recorded.iter().zip(before) {
            if let Some(before) = before {
                self.learn(before, now);
            }
            self.restrictions.hear(restriction, now);
        }
    }

    /// Restrictions that this replica learned earlier are sent to Redis.
    pub(super) fn sent_late(&self, restrictions: &[Restriction]) {
        self.unanswered().extend(restrictions.iter().map(|restriction| (restriction.key(), restriction.clone())));
    }

    /// Redis answered to [`Self::sent_late`]: if Redis lacked one, nobody has looked for the tokens that it ends.
    pub(super) fn recorded_late(&self, recorded: &[Restriction], before: &[Option<Restriction>], now: UnixMillis) {
        self.recorded(recorded, before, now);
        for (restriction, before) in recorded.iter().zip(before) {
            self.unanswered().remove(&restriction.key());
            let before = before.as_ref().map(Restriction::terms);
            if RecordOutcome::of(before, restriction.terms()) == RecordOutcome::New {
                self.revoke_late(restriction.clone(), now);
            }
        }
    }

    /// Applies what was read from the log.
    pub(super) fn hear(&self, page: LogPage, now: UnixMillis) -> Result<(), Loss> {
        let position = self.position();
        if page.last.is_none_or(|last| last < position) {
            return Err(Loss::OlderLog);
        }
        if page.first.is_none_or(|first| first > position) {
            return Err(Loss::Behind);
        }
        let (positions, entries): (Vec<_>, Vec<_>) = page.entries.into_iter().unzip();
        for entry in entries {
            match entry {
                Some(LogEntry::Recorded(restriction)) => self.learn(&restriction, now),
                Some(LogEntry::TaskDone { id, due }) => self.tasks.complete(&id, due),
                None => {}
            }
        }
        let mut progress = self.progress();
        progress.position = progress.position.max(positions.last().copied().unwrap_or_default());
        if let Some((awaited, _)) = progress.awaited.filter(|(awaited, _)| *awaited <= progress.position) {
            if !positions.contains(&awaited) {
                return Err(Loss::DifferentData);
            }
            progress.awaited = None;
        }
        Ok(())
    }

    /// The position from which the log is to be read on.
    pub(super) fn position(&self) -> LogPosition {
        self.progress().position
    }

    /// The state that the commands' connection saw, asked when this replica was at `position`. The log's connection has to
    /// see the same soon.
    pub(super) fn check(&self, state: &SharedState, position: LogPosition, now: UnixMillis) -> Result<(), Loss> {
        let mut progress = self.progress();
        if state.data_id != progress.data_id {
            return Err(Loss::OtherData);
        }
        if state.last < position {
            return Err(Loss::OlderLog);
        }
        progress.backlog = state.backlog;
        match progress.awaited {
            Some((_, since)) if since.after(Self::LOG_LAG) < now => return Err(Loss::DifferentData),
            None if state.last > progress.position => progress.awaited = Some((state.last, now)),
            _ => {}
        }
        Ok(())
    }

    /// Everything up to the end of the log is applied, and Redis has everything that this replica knows. Finds the tokens
    /// that were issued despite a restriction. After an absence, users may have changed unheard.
    pub(super) fn follow(&self, now: UnixMillis) {
        let was = mem::replace(&mut self.progress().phase, Phase::Following);
        if was == Phase::Away {
            (self.on_forget)(Forgotten::Everyone);
        }
        let (unchecked, losses) = self.live_tokens.unchecked(now);
        for restriction in unchecked.iter().flat_map(|unchecked| self.restrictions.against(unchecked)) {
            self.revoke_late(restriction, now);
        }
        self.live_tokens.mark_checked(unchecked.iter().map(|unchecked| &unchecked.live_token), losses);
        // Redis may have recorded them.
        let unanswered = mem::take(&mut *self.unanswered());
        for restriction in unanswered.into_values() {
            self.revoke_late(restriction, now);
        }
    }

    /// Redis has live tokens that were put before, after so many losses.
    pub(super) fn registered(&self, live_tokens: &[LiveToken], losses: u64) {
        // Else they are checked once the log is followed.
        if self.phase() == Phase::Following {
            self.live_tokens.mark_checked(live_tokens, losses);
        }
    }

    /// Redis is lost.
    pub(super) fn lose(&self) {
        let mut progress = self.progress();
        if progress.phase == Phase::Following {
            progress.phase = Phase::Away;
            progress.outages += 1;
        }
        drop(progress);
        // First: what is learned in between counts as learned since the loss.
        self.restrictions.lose();
        self.live_tokens.lose();
    }

    fn revoke_late(&self, restriction: Restriction, now: UnixMillis) {
        if restriction.terms().restricts() && now < restriction.until.after(Self::TOKENS_OUTLIVE_BY) {
            self.lock_late().insert(restriction.key(), restriction);
        }
    }

    /// The restrictions whose tokens may have been missed, ended ones included.
    pub(super) fn late(&self) -> Vec<Restriction> {
        self.lock_late().values().cloned().collect()
    }

    /// Forgets a restriction whose tokens may have been missed, unless a newer one has taken its place.
    pub(super) fn settle_late(&self, restriction: &Restriction) {
        let (mut late, key) = (self.lock_late(), restriction.key());
        if late.get(&key) == Some(restriction) {
            late.remove(&key);
        }
    }

    pub(super) fn forget_old_task_copies(&self, now: UnixMillis) {
        self.tasks.remove_claimable_before(UnixMillis(now.0.saturating_sub(clock::millis(Self::TASK_COPY_KEPT_FOR))));
    }

    /// Held while restrictions are applied and their tasks are not kept yet.
    fn telling(&self) -> MutexGuard<'_, ()> {
        self.telling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_late(&self) -> MutexGuard<'_, BTreeMap<RestrictionKey, Restriction>> {
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unanswered(&self) -> MutexGuard<'_, BTreeMap<RestrictionKey, Restriction>> {
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the tasks of these restrictions are to be stored where others are known.
pub(super) fn follow_from_new(restrictions: &[Restriction], known: &[Option<Restriction>]) -> bool {
    restrictions.is_empty() || RecordOutcome::of_all(restrictions, known).contains(&RecordOutcome::New)
}
