//! Decides when to call Ably, and with which targets. Pure: the time and the jitter are passed in.

use std::{
    collections::{HashMap, VecDeque},
    mem,
    time::Duration,
};

use crate::{
    ably::{ReauthMargin, RestClient, Target},
    clock::UnixMillis,
};

/// The pause after the first failed call.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause that the service chooses itself.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// The longest pause that Ably can request: revocable tokens expire within it.
const LONGEST_RETRY_AFTER: Duration = Duration::from_hours(1);

/// How long callers wait until their targets' call begins. A webhook's sender waits 15 seconds for the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The waiting targets, and the time of the next call. `C` is a caller that waits for a target's outcome.
///
/// The first call starts at once. During a call, and during a pause that Ably requested, new targets wait; the next call takes
/// as many as fit. Callers that have waited for [`PATIENCE`] leave before the next call. While Ably fails, callers do not wait:
/// they keep their targets in the store, where they are due when the pause ends.
#[derive(Debug)]
pub(super) struct Schedule<C> {
    /// Whether a task makes the calls.
    is_running: bool,
    pause: Option<Pause>,
    /// Failed calls since the last success.
    failures: u32,
    /// The margin of the next call, if targets wait with both.
    turn: ReauthMargin,
    at_once: Lane<C>,
    with_margin: Lane<C>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pause {
    until: UnixMillis,
    /// By Ably, rather than chosen by the service.
    is_requested: bool,
}

/// The targets with one margin, the oldest first. A target of two callers is in one call only.
#[derive(Debug)]
struct Lane<C> {
    /// The maximum number of targets of the next call.
    max_targets: usize,
    request: VecDeque<Target>,
    callers: HashMap<Target, Vec<Waiter<C>>>,
}

/// A caller that waits for a target's outcome, until some time.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Waiter<C> {
    pub(super) caller: C,
    until: UnixMillis,
}

/// The result of adding targets.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Added {
    /// They wait for a call.
    Waits,
    /// They wait, and the caller must start the task that makes the calls.
    First,
    /// They were not added: the pause is too long.
    TooSoon { retry_at: UnixMillis },
}

/// The next step of the task that makes the calls.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<C> {
    RevokeCall(RevokeCall<C>),
    /// Tell these callers to retry later.
    Leave(Vec<C>),
    Sleep(Duration),
    /// No target waits.
    Stop,
}

/// A call to make.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RevokeCall<C> {
    pub(super) targets: Vec<Target>,
    /// The callers of each target.
    pub(super) callers: Vec<Vec<Waiter<C>>>,
    pub(super) margin: ReauthMargin,
}

/// A pause after a failed call.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Paused<C> {
    pub(super) retry_at: UnixMillis,
    /// The callers that do not wait for its end.
    pub(super) left: Vec<C>,
}

impl<C> Default for Lane<C> {
    fn default() -> Self {
        Self { max_targets: RestClient::MAX_TARGETS, request: VecDeque::new(), callers: HashMap::new() }
    }
}

impl<C> Default for Schedule<C> {
    fn default() -> Self {
        Self {
            is_running: false,
            pause: None,
            failures: 0,
            turn: ReauthMargin::None,
            at_once: Lane::default(),
            with_margin: Lane::default(),
        }
    }
}

impl<C> Schedule<C> {
    /// Adds targets, unless they would wait too long.
    pub(super) fn add(
        &mut self,
        targets: impl ExactSizeIterator<Item = (Target, C)>,
        margin: ReauthMargin,
        now: UnixMillis,
    ) -> Added {
        if targets.len() == 0 {
            return Added::Waits;
        }
        let until = now.after(PATIENCE);
        if let Some(pause) = self.pause.filter(|pause| now < pause.until && !pause.is_worth_waiting(until)) {
            return Added::TooSoon { retry_at: pause.until };
        }
        for (target, caller) in targets {
            self.lane(margin).push_back(target, Waiter { caller, until });
        }
        if mem::replace(&mut self.is_running, true) { Added::Waits } else { Added::First }
    }

    /// Chooses the next step.
    pub(super) fn next(&mut self, now: UnixMillis) -> Next<C> {
        let left = self.leave(|caller| now <= caller.until);
        if !left.is_empty() {
            return Next::Leave(left);
        }
        let margin = if self.lane(self.turn).request.is_empty() { other(self.turn) } else { self.turn };
        if self.lane(margin).request.is_empty() {
            self.is_running = false;
            return Next::Stop;
        }
        if let Some(pause) = self.pause.filter(|pause| now < pause.until) {
            return Next::Sleep(Duration::from_millis(pause.until.0.abs_diff(now.0)));
        }
        let lane = self.lane(margin);
        let targets: Vec<_> = lane.request.drain(..lane.request.len().min(lane.max_targets)).collect();
        let callers = targets.iter().map(|target| lane.callers.remove(target).unwrap_or_default()).collect();
        self.turn = other(margin);
        Next::RevokeCall(RevokeCall { targets, callers, margin })
    }

    /// Ably accepted a call with this margin. The next call starts at once, and may be larger.
    pub(super) fn succeeded(&mut self, margin: ReauthMargin) {
        self.reset_backoff();
        let lane = self.lane(margin);
        lane.max_targets = (2 * lane.max_targets).min(RestClient::MAX_TARGETS);
    }

    /// Ably answered. The next call starts at once.
    pub(super) fn reset_backoff(&mut self) {
        self.failures = 0;
        self.pause = None;
    }

    /// Ably refused a call, maybe because of one target. Retries at once in calls of half the size, so that in the end Ably
    /// refuses only that target.
    pub(super) fn refused(&mut self, call: RevokeCall<C>) {
        self.reset_backoff();
        let lane = self.lane(call.margin);
        lane.max_targets = (call.targets.len() / 2).max(1);
        lane.put_back(call.targets, call.callers);
    }

    /// The targets in `call` failed. The next call starts when Ably says, or else after a pause that doubles with each
    /// failure. `jitter`, from 0 to 1, shortens that pause by up to a half.
    pub(super) fn failed(
        &mut self,
        call: RevokeCall<C>,
        retry_after: Option<Duration>,
        now: UnixMillis,
        jitter: f64,
    ) -> Paused<C> {
        let doubled = SHORTEST_PAUSE.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        self.failures = self.failures.saturating_add(1);
        let length = match retry_after {
            Some(asked) => asked.clamp(SHORTEST_PAUSE, LONGEST_RETRY_AFTER),
            None => doubled.min(LONGEST_PAUSE).mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0),
        };
        let pause = Pause { until: now.after(length), is_requested: retry_after.is_some() };
        self.pause = Some(pause);
        self.lane(call.margin).put_back(call.targets, call.callers);
        Paused { retry_at: pause.until, left: self.leave(|caller| pause.is_worth_waiting(caller.until)) }
    }

    /// Removes and returns the callers that do not stay.
    fn leave(&mut self, stays: impl Fn(&Waiter<C>) -> bool) -> Vec<C> {
        [&mut self.at_once, &mut self.with_margin].into_iter().flat_map(|lane| lane.leave(&stays)).collect()
    }

    fn lane(&mut self, margin: ReauthMargin) -> &mut Lane<C> {
        match margin {
            ReauthMargin::None => &mut self.at_once,
            ReauthMargin::Reauthentication => &mut self.with_margin,
        }
    }
}

impl Pause {
    fn is_worth_waiting(self, until: UnixMillis) -> bool {
        self.is_requested && self.until <= until
    }
}

impl<C> Lane<C> {
    fn push_back(&mut self, target: Target, caller: Waiter<C>) {
        if !self.callers.contains_key(&target) {
            self.request.push_back(target.clone());
        }
        self.callers.entry(target).or_default().push(caller);
    }

    /// Returns the targets of a call to the front.
    fn put_back(&mut self, targets: Vec<Target>, callers: Vec<Vec<Waiter<C>>>) {
        for (target, callers) in targets.into_iter().zip(callers).rev() {
            if !self.callers.contains_key(&target) {
                self.request.push_front(target.clone());
            }
            self.callers.entry(target).or_default().extend(callers);
        }
    }

    fn leave(&mut self, stays: impl Fn(&Waiter<C>) -> bool) -> Vec<C> {
        let mut left = Vec::new();
        self.request.retain(|target| {
            let callers = self.callers.remove(target).unwrap_or_default();
            let (stay, leave): (Vec<_>, _) = callers.into_iter().partition(&stays);
            left.extend(leave.into_iter().map(|Waiter { caller, .. }| caller));
            let is_waited_for = !stay.is_empty();
            if is_waited_for {
                self.callers.insert(target.clone(), stay);
            }
            is_waited_for
        });
        left
    }
}

fn other(margin: ReauthMargin) -> ReauthMargin {
    match margin {
        ReauthMargin::None => ReauthMargin::Reauthentication,
        ReauthMargin::Reauthentication => ReauthMargin::None,
    }
}

/// When to retry a target that fails while its call succeeds: after as long as it has waited so far.
#[must_use]
pub fn retry_of_target(first_due: UnixMillis, now: UnixMillis) -> UnixMillis {
    let waited = Duration::from_millis(u64::try_from(now.0.saturating_sub(first_due.0)).unwrap_or(0));
    now.after(waited.clamp(SHORTEST_PAUSE, LONGEST_PAUSE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ably::ClientId;

    const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

    fn target(name: &str) -> Target {
        Target::ClientId(ClientId::parse(name).unwrap())
    }

    fn later(millis: u64) -> UnixMillis {
        NOW.after(Duration::from_millis(millis))
    }

    /// Adds targets of these names; each is its own caller.
    fn add(schedule: &mut Schedule<String>, names: &[&str], margin: ReauthMargin, now: UnixMillis) -> Added {
        schedule.add(names.iter().map(|name| (target(name), (*name).to_owned())), margin, now)
    }

    fn next(schedule: &mut Schedule<String>, now: UnixMillis) -> Option<RevokeCall<String>> {
        match schedule.next(now) {
            Next::RevokeCall(call) => Some(call),
            Next::Leave(_) | Next::Sleep(_) | Next::Stop => None,
        }
    }

    /// The targets and the margin of the next call.
    fn call(schedule: &mut Schedule<String>, now: UnixMillis) -> Option<(Vec<String>, ReauthMargin)> {
        let RevokeCall { targets, callers, margin } = next(schedule, now)?;
        assert_eq!(targets.len(), callers.len());
        Some((targets.iter().map(|target| target.to_string().replace("clientId:", "")).collect(), margin))
    }

    #[test]
    fn the_first_call_goes_at_once_and_those_that_come_meanwhile_share_the_next() {
        let mut schedule = Schedule::default();
        assert_eq!(add(&mut schedule, &["a"], ReauthMargin::None, NOW), Added::First);
        assert_eq!(call(&mut schedule, NOW), Some((vec!["a".into()], ReauthMargin::None)));
        for name in ["b", "c"] {
            assert_eq!(add(&mut schedule, &[name], ReauthMargin::None, NOW), Added::Waits);
        }
        schedule.succeeded(ReauthMargin::None);
        assert_eq!(call(&mut schedule, NOW), Some((vec!["b".into(), "c".into()], ReauthMargin::None)));
        schedule.succeeded(ReauthMargin::None);
        assert_eq!(schedule.next(NOW), Next::Stop);
        assert_eq!(add(&mut schedule, &["d"], ReauthMargin::None, NOW), Added::First);
    }

    #[test]
    fn nothing_to_revoke_needs_no_call() {
        let mut schedule = Schedule::default();
        assert_eq!(add(&mut schedule, &[], ReauthMargin::None, NOW), Added::Waits);
        assert_eq!(add(&mut schedule, &["a"], ReauthMargin::None, NOW), Added::First);
    }

    #[test]
    fn a_call_has_a_hundred_targets_at_most_and_the_oldest_first() {
        let mut schedule = Schedule::default();
        let names: Vec<_> = (0..250).map(|n| format!("user-{n}")).collect();
        add(&mut schedule, &names.iter().map(String::as_str).collect::<Vec<_>>(), ReauthMargin::None, NOW);
        let mut called = Vec::new();
        for count in [100, 100, 50] {
            let (targets, _) = call(&mut schedule, NOW).unwrap();
            assert_eq!(targets.len(), count);
            called.extend(targets);
            schedule.succeeded(ReauthMargin::None);
        }
        assert_eq!(called, names);
        assert_eq!(schedule.next(NOW), Next::Stop);
    }

    #[test]
    fn targets_with_and_without_a_margin_take_turns_and_share_no_call() {
        let mut schedule = Schedule::default();
        let names: Vec<_> = (0..150).map(|n| format!("user-{n}")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        for margin in [ReauthMargin::Reauthentication, ReauthMargin::None] {
            add(&mut schedule, &names, margin, NOW);
        }
        let mut calls = Vec::new();
        while let Some((targets, margin)) = call(&mut schedule, NOW) {
            calls.push((targets.len(), margin));
        }
        let (none, margin) = (ReauthMargin::None, ReauthMargin::Reauthentication);
        assert_eq!(calls, [(100, none), (100, margin), (50, none), (50, margin)]);
    }

    #[test]
    fn a_target_that_several_wait_for_is_called_once_and_all_get_its_outcome() {
        let mut schedule = Schedule::default();
        let callers = |call: RevokeCall<String>| -> Vec<Vec<String>> {
            call.callers.into_iter().map(|all| all.into_iter().map(|one| one.caller).collect()).collect()
        };
        for caller in ["one", "two"] {
            schedule.add([(target("a"), caller.to_owned())].into_iter(), ReauthMargin::None, NOW);
        }
        assert_eq!(callers(next(&mut schedule, NOW).unwrap()), [["one", "two"]]);
        // A call under way may miss tokens that were issued since.
        schedule.add([(target("a"), "three".to_owned())].into_iter(), ReauthMargin::None, NOW);
        assert_eq!(callers(next(&mut schedule, NOW).unwrap()), [["three"]]);
    }

    #[test]
    fn while_ably_says_wait_targets_collect_and_those_of_the_failed_call_come_first() {
        let mut schedule = Schedule::default();
        add(&mut schedule, &["a", "b"], ReauthMargin::None, NOW);
        let failed = next(&mut schedule, NOW).unwrap();
        for name in ["c", "a"] {
            assert_eq!(add(&mut schedule, &[name], ReauthMargin::None, NOW), Added::Waits);
        }
        let paused = schedule.failed(failed, Some(Duration::from_secs(7)), NOW, 1.0);
        assert_eq!(paused, Paused { retry_at: later(7000), left: vec![] });
        assert_eq!(add(&mut schedule, &["d"], ReauthMargin::None, later(6000)), Added::Waits);
        assert_eq!(schedule.next(later(6000)), Next::Sleep(Duration::from_secs(1)));
        let (targets, _) = call(&mut schedule, later(7000)).unwrap();
        assert_eq!(targets, ["b", "c", "a", "d"]);
    }

    #[test]
    fn a_caller_that_would_wait_too_long_learns_when_to_retry() {
        let mut schedule = Schedule::default();
        add(&mut schedule, &["a"], ReauthMargin::None, NOW);
        add(&mut schedule, &["b"], ReauthMargin::Reauthentication, later(5000));
        let failed = next(&mut schedule, later(5000)).unwrap();
        let Paused { retry_at, left } = schedule.failed(failed, Some(Duration::from_secs(8)), later(5000), 1.0);
        assert_eq!((retry_at, left), (later(13_000), vec!["a".to_owned()]));
        let calls = [(2999, Added::TooSoon { retry_at }), (3000, Added::Waits), (13_000, Added::Waits)];
        for (millis, added) in calls {
            assert_eq!(add(&mut schedule, &["c"], ReauthMargin::None, later(millis)), added, "{millis}");
        }
        assert_eq!(call(&mut schedule, retry_at), Some((vec!["b".into()], ReauthMargin::Reauthentication)));
    }

    #[test]
    fn after_a_failure_without_retry_after_callers_do_not_wait() {
        let mut schedule = Schedule::default();
        add(&mut schedule, &["a"], ReauthMargin::None, NOW);
        let failed = next(&mut schedule, NOW).unwrap();
        add(&mut schedule, &["b"], ReauthMargin::None, NOW);
        add(&mut schedule, &["c"], ReauthMargin::Reauthentication, NOW);
        let Paused { retry_at, left } = schedule.failed(failed, None, NOW, 0.0);
        assert_eq!((retry_at, left), (later(1000), ["a", "b", "c"].map(str::to_owned).to_vec()));
        assert_eq!(schedule.next(NOW), Next::Stop);
        assert_eq!(add(&mut schedule, &["d"], ReauthMargin::None, later(999)), Added::TooSoon { retry_at });
        assert_eq!(add(&mut schedule, &["e"], ReauthMargin::None, later(1000)), Added::First);
        assert_eq!(call(&mut schedule, later(1000)), Some((vec!["e".into()], ReauthMargin::None)));
    }

    #[test]
    fn a_caller_that_has_waited_too_long_for_slow_calls_leaves_before_the_next() {
        let mut schedule = Schedule::default();
        add(&mut schedule, &["a"], ReauthMargin::None, NOW);
        let _under_way = next(&mut schedule, NOW).unwrap();
        add(&mut schedule, &["b", "c"], ReauthMargin::None, NOW);
        add(&mut schedule, &["d"], ReauthMargin::Reauthentication, NOW);
        add(&mut schedule, &["c"], ReauthMargin::None, later(1));
        schedule.succeeded(ReauthMargin::None);
        assert_eq!(schedule.next(later(10_001)), Next::Leave(["b", "c", "d"].map(str::to_owned).to_vec()));
        assert_eq!(call(&mut schedule, later(10_001)), Some((vec!["c".into()], ReauthMargin::None)));
        assert_eq!(schedule.next(later(10_001)), Next::Stop);
    }

    #[test]
    fn of_a_call_that_is_refused_because_of_one_target_only_that_target_is_refused() {
        let names: Vec<_> = (0..100).map(|n| format!("user-{n}")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        for poisoned in 0..100 {
            let (mut schedule, mut accepted, mut refused, mut calls) = (Schedule::default(), Vec::new(), Vec::new(), 0);
            add(&mut schedule, &names, ReauthMargin::None, NOW);
            while let Some(call) = next(&mut schedule, NOW) {
                calls += 1;
                let callers: Vec<_> = call.callers.iter().flatten().map(|caller| caller.caller.clone()).collect();
                if !callers.iter().any(|name| name == names[poisoned]) {
                    accepted.extend(callers);
                    schedule.succeeded(ReauthMargin::None);
                } else if callers.len() == 1 {
                    refused.extend(callers);
                    schedule.reset_backoff();
                } else {
                    schedule.refused(call);
                }
            }
            assert_eq!(refused, [names[poisoned]]);
            assert_eq!(accepted.len(), 99);
            assert!(calls <= 30, "{calls} calls for user-{poisoned}");
        }
    }

    fn nothing() -> RevokeCall<String> {
        RevokeCall { targets: vec![], callers: vec![], margin: ReauthMargin::None }
    }

    /// How long the pauses of calls are that fail one after the other.
    fn pauses(schedule: &mut Schedule<String>, count: usize, jitter: f64) -> Vec<i64> {
        (0..count).map(|_| schedule.failed(nothing(), None, NOW, jitter).retry_at.0 - NOW.0).collect()
    }

    #[test]
    fn pauses_double_up_to_a_minute_and_jitter_takes_off_up_to_a_half() {
        let mut schedule = Schedule::default();
        assert_eq!(pauses(&mut schedule, 8, 0.0), [1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000]);
        assert_eq!(pauses(&mut schedule, 100, 0.0)[99], 60000);
        schedule.succeeded(ReauthMargin::None);
        assert_eq!(pauses(&mut schedule, 3, 1.0), [500, 1000, 2000]);
        schedule.succeeded(ReauthMargin::None);
        assert_eq!(pauses(&mut schedule, 3, 0.5), [750, 1500, 3000]);
    }

    #[test]
    fn ably_says_when_to_retry_within_reason() {
        for (seconds, millis) in [(0, 1000), (1, 1000), (600, 600_000), (3600, 3_600_000), (u64::MAX, 3_600_000)] {
            let paused = Schedule::default().failed(nothing(), Some(Duration::from_secs(seconds)), NOW, 0.7);
            assert_eq!(paused.retry_at, later(millis), "{seconds}");
        }
    }

    #[test]
    fn a_target_that_fails_by_itself_is_retried_after_as_long_as_it_has_waited() {
        for (waited, pause) in [(0, 1000), (1500, 1500), (30_000, 30_000), (3_600_000, 60_000)] {
            assert_eq!(retry_of_target(NOW, later(waited)), later(waited + pause));
        }
        assert_eq!(retry_of_target(later(1), NOW), later(1000));
    }
}
