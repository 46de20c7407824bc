//! A simulated Redis server: its data, and what each command of the store does. `tests/store` compares it with a real one.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use ably_clerk_auth::{
    clock::UnixMillis,
    store::{
        Claim, DenialSource, LiveToken, LogPage, LogPosition, RecordOutcome, Restriction, RestrictionKind, SharedState,
        StoredTask, Subject, TaskBacklog, TokenHolder, Topic,
    },
    tenant::TenantName,
};
use tokio::sync::Notify;

/// What two restrictions must share for one to replace the other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RowKey(pub(crate) TenantName, pub(crate) Subject, pub(crate) Topic);

pub(crate) fn row_key(restriction: &Restriction) -> RowKey {
    let topic = match restriction.kind {
        RestrictionKind::Lifted(source) | RestrictionKind::Denied(source) => Topic::Denial(source),
        RestrictionKind::Deleted => Topic::Denial(DenialSource::Clerk),
        RestrictionKind::NotBefore => Topic::Rights,
        RestrictionKind::ClientId(_) => Topic::ClientId,
    };
    RowKey(restriction.tenant.clone(), restriction.subject.clone(), topic)
}

/// Of two restrictions with the same key, that of the higher rank counts.
pub(crate) fn rank(restriction: &Restriction) -> (bool, UnixMillis, bool, UnixMillis) {
    let restricts = !matches!(restriction.kind, RestrictionKind::Lifted(_));
    (restriction.kind == RestrictionKind::Deleted, restriction.at, restricts, restriction.until)
}

pub(crate) fn is_active(restriction: &Restriction, now: UnixMillis) -> bool {
    !matches!(restriction.kind, RestrictionKind::Lifted(_)) && now < restriction.until
}

#[derive(Clone, Default)]
pub(crate) struct Data {
    pub(crate) id: Option<u64>,
    pub(crate) rows: BTreeMap<RowKey, Restriction>,
    /// The keys of `rows`: a scan goes along them. A new one is the first or the last. Removed ones stay.
    scan: Vec<RowKey>,
    pub(crate) log: VecDeque<(LogPosition, Option<Restriction>)>,
    pub(crate) last: LogPosition,
    live_tokens: BTreeMap<LiveToken, UnixMillis>,
    /// Each with the time from which it can be claimed.
    pub(crate) tasks: BTreeMap<String, (StoredTask, UnixMillis)>,
}

#[derive(Clone)]
pub(crate) enum Write {
    Identify(u64),
    Row(Restriction),
    RemoveRow(RowKey),
    Append(LogPosition, Option<Restriction>),
    LiveToken(LiveToken),
    Task(StoredTask, UnixMillis),
    RemoveTask(String),
}

fn without_end(live_token: &LiveToken) -> LiveToken {
    LiveToken { until: UnixMillis(0), ..live_token.clone() }
}

impl Data {
    fn apply(&mut self, write: Write, max_log: usize) {
        match write {
            Write::Identify(id) => self.id = Some(id),
            Write::Row(restriction) => {
                let key = row_key(&restriction);
                if self.rows.insert(key.clone(), restriction).is_none() {
                    // Before or behind a scan that is under way.
                    let place = if self.scan.len().is_multiple_of(2) { 0 } else { self.scan.len() };
                    self.scan.insert(place, key);
                }
            }
            Write::RemoveRow(key) => _ = self.rows.remove(&key),
            Write::Append(position, entry) => {
                self.last = position;
                self.log.push_back((position, entry));
                while self.log.len() > max_log {
                    self.log.pop_front();
                }
            }
            Write::LiveToken(live_token) => _ = self.live_tokens.insert(without_end(&live_token), live_token.until),
            Write::Task(task, claimable) => _ = self.tasks.insert(task.id.clone(), (task, claimable)),
            Write::RemoveTask(id) => _ = self.tasks.remove(&id),
        }
    }

    pub(crate) fn has_live_token(&self, live_token: &LiveToken) -> bool {
        self.live_tokens.get(&without_end(live_token)).is_some_and(|until| *until >= live_token.until)
    }

    /// Whether it has this restriction or one that counts instead.
    pub(crate) fn knows(&self, restriction: &Restriction) -> bool {
        let known = self.rows.get(&row_key(restriction)).map(rank);
        let (deleted, at, restricts, _) = rank(restriction);
        known.is_some_and(|known| (known.0, known.1, known.2) >= (deleted, at, restricts))
    }
}

/// A server, and what its replica will have.
pub(crate) struct Node {
    pub(crate) data: Data,
    pub(crate) copied: Data,
    pub(crate) uncopied: VecDeque<(UnixMillis, Write)>,
    pub(crate) is_alive: bool,
    pub(crate) changed: Arc<Notify>,
    max_log: usize,
    max_ended: usize,
    /// Until when what would append to the log waits.
    pub(crate) is_held_until: UnixMillis,
}

impl Node {
    pub(crate) fn new(data: Data, max_log: usize, max_ended: usize) -> Self {
        Self {
            copied: data.clone(),
            data,
            uncopied: VecDeque::new(),
            is_alive: true,
            changed: Arc::default(),
            max_log,
            max_ended,
            is_held_until: UnixMillis(0),
        }
    }

    fn write(&mut self, write: Write, now: UnixMillis) {
        if matches!(write, Write::Append(..)) {
            self.changed.notify_waiters();
        }
        self.uncopied.push_back((now, write.clone()));
        self.data.apply(write, self.max_log);
    }

    /// Forgets rows that ended long ago, or that it has no room for.
    fn forget_ended(&mut self, by_clock: UnixMillis, now: UnixMillis) {
        let rows = self.data.rows.iter().map(|(key, restriction)| (restriction.until, key.clone()));
        let mut ended: Vec<_> = rows.filter(|(end, _)| *end <= by_clock).collect();
        ended.sort();
        let surplus = ended.len().saturating_sub(self.max_ended);
        let forgotten = ended.iter().filter(|(end, _)| end.after(Restriction::REMEMBERED_FOR) <= by_clock).count();
        for (_, key) in ended.into_iter().take(surplus.max(forgotten)) {
            self.write(Write::RemoveRow(key), now);
        }
    }

    pub(crate) fn append(&mut self, entry: Option<Restriction>, now: UnixMillis) {
        let millis = u64::try_from(now.0).unwrap();
        let last = self.data.last;
        let position = if millis > last.millis {
            LogPosition { millis, number: 0 }
        } else {
            LogPosition { millis: last.millis, number: last.number + 1 }
        };
        self.write(Write::Append(position, entry), now);
    }

    /// The data as it was `lag` ago.
    pub(crate) fn copy(&mut self, lag: Duration, now: UnixMillis) -> Data {
        while self.uncopied.front().is_some_and(|(at, _)| at.after(lag) <= now) {
            let (_, write) = self.uncopied.pop_front().unwrap();
            self.copied.apply(write, self.max_log);
        }
        self.copied.clone()
    }

    pub(crate) fn state(&mut self, new_id: u64, now: UnixMillis) -> SharedState {
        if self.data.id.is_none() {
            self.write(Write::Identify(new_id), now);
        }
        if self.data.log.is_empty() {
            self.append(None, now);
        }
        let tasks = &self.data.tasks;
        let backlog = TaskBacklog { count: tasks.len(), oldest_due: tasks.values().map(|(task, _)| task.due).min() };
        SharedState { data_id: self.data.id.unwrap_or_default().to_string(), last: self.data.last, backlog }
    }

    /// The entries after a position, at most `max`.
    pub(crate) fn read(&self, after: LogPosition, max: usize) -> LogPage {
        let log = &self.data.log;
        LogPage {
            entries: log.iter().filter(|(position, _)| *position > after).take(max).cloned().collect(),
            first: log.front().map(|(position, _)| *position),
            last: log.back().map(|(position, _)| *position),
        }
    }

    /// A page of the rows, and where the next one begins.
    pub(crate) fn scan(&self, cursor: usize, page: usize) -> (Option<usize>, Vec<Restriction>) {
        let keys = self.data.scan.iter().skip(cursor).take(page);
        let rows = keys.filter_map(|key| self.data.rows.get(key).cloned()).collect();
        (cursor.checked_add(page).filter(|next| *next < self.data.scan.len()), rows)
    }

    pub(crate) fn record(
        &mut self,
        restrictions: &[Restriction],
        tasks: &[StoredTask],
        tasks_if: RecordOutcome,
        by_clock: UnixMillis,
        now: UnixMillis,
    ) -> Recorded {
        self.forget_ended(by_clock, now);
        let mut recorded = Recorded { before: Vec::new(), written: Vec::new(), has_new: restrictions.is_empty() };
        for restriction in restrictions {
            let known = self.data.rows.get(&row_key(restriction)).cloned();
            let is_same_client_id = |known: &Restriction| {
                matches!(restriction.kind, RestrictionKind::ClientId(_)) && known.kind == restriction.kind
            };
            let is_confirmed = tasks_if == RecordOutcome::New && known.as_ref().is_some_and(is_same_client_id);
            recorded.has_new |= !self.data.knows(restriction) && !is_confirmed;
            if known.as_ref().is_none_or(|known| rank(known) < rank(restriction)) {
                self.write(Write::Row(restriction.clone()), now);
                self.append(Some(restriction.clone()), now);
                recorded.written.push(restriction.clone());
            }
            recorded.before.push(known);
        }
        for task in tasks.iter().filter(|_| recorded.has_new) {
            if !self.data.tasks.contains_key(&task.id) {
                self.write(Write::Task(task.clone(), task.due), now);
            }
        }
        recorded
    }

    pub(crate) fn register(&mut self, live_tokens: &[LiveToken], by_clock: UnixMillis, now: UnixMillis) -> Vec<bool> {
        let register = |live_token: &LiveToken| {
            let known = self.data.live_tokens.get(&without_end(live_token)).copied();
            if live_token.until > by_clock && !self.data.has_live_token(live_token) {
                self.write(Write::LiveToken(live_token.clone()), now);
            }
            known != Some(live_token.until)
        };
        live_tokens.iter().map(register).collect()
    }

    pub(crate) fn live_tokens(
        &self,
        tenant: &TenantName,
        holder: &TokenHolder,
        by_clock: UnixMillis,
    ) -> Vec<LiveToken> {
        let is_held = |live_token: &LiveToken| live_token.tenant == *tenant && live_token.is_of(holder);
        let known = self.data.live_tokens.iter();
        let held = known.filter(|(live_token, until)| is_held(live_token) && **until > by_clock);
        held.map(|(live_token, until)| LiveToken { until: *until, ..live_token.clone() }).collect()
    }

    pub(crate) fn claim(&mut self, claim: Claim<'_>, by_clock: UnixMillis, now: UnixMillis) -> Vec<StoredTask> {
        let tasks = self.data.tasks.values().cloned();
        let claimed: Vec<_> = match claim {
            Claim::Named(id) => tasks.filter(|(task, _)| task.id == id).collect(),
            Claim::Due(max) => {
                let mut due: Vec<_> = tasks.filter(|(_, claimable)| *claimable <= by_clock).collect();
                due.sort_by_key(|(_, claimable)| *claimable);
                due.truncate(max);
                due
            }
        };
        for (task, _) in &claimed {
            self.write(Write::Task(task.clone(), by_clock.after(StoredTask::LEASE)), now);
        }
        claimed.into_iter().map(|(task, _)| task).collect()
    }

    /// Returns whether the task is not there any more.
    pub(crate) fn end_claim(&mut self, left: &StoredTask, retry_at: Option<UnixMillis>, now: UnixMillis) -> bool {
        let Some(due) = self.data.tasks.get(&left.id).map(|(known, _)| known.due) else { return true };
        match retry_at {
            _ if due > left.due => return false,
            Some(retry_at) => self.write(Write::Task(StoredTask { due, ..left.clone() }, retry_at), now),
            None => self.write(Write::RemoveTask(left.id.clone()), now),
        }
        retry_at.is_none()
    }
}

/// What became of restrictions and tasks.
pub(crate) struct Recorded {
    /// For each restriction the one recorded before.
    pub(crate) before: Vec<Option<Restriction>>,
    pub(crate) written: Vec<Restriction>,
    /// Whether the tasks are stored.
    pub(crate) has_new: bool,
}
