//! A limit on the tokens that one user gets from this replica: a burst at once, and then a number a minute (GCRA).
//!
//! The limit stores one point in time for each of about the last [`TokenLimit::MAX_USERS`] users who asked. A forgotten user has
//! a whole burst again.

use std::{
    convert::Infallible,
    hash::{BuildHasher, RandomState},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, MonotonicClock},
    middleware::StateInformationMiddleware,
    nanos::Nanos,
    state::{InMemoryState, NotKeyed, StateStore},
};
use quick_cache::{
    DefaultHashBuilder, OptionsBuilder, UnitWeighter,
    sync::{Cache, DefaultLifecycle},
};

use crate::tenant::TenantName;

/// How many tokens a user may get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenQuota {
    /// The sustained rate.
    pub per_minute: NonZeroU32,
    /// The maximum at once, after a pause.
    pub burst: NonZeroU32,
}

impl TokenQuota {
    /// The time that refills one token.
    fn interval(self) -> Duration {
        Duration::from_mins(1) / self.per_minute.get()
    }

    /// The time that refills the whole burst.
    fn refill_time(self) -> Duration {
        self.interval() * self.burst.get()
    }
}

/// The tokens that a user has left. Seconds are rounded up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// The maximum at once.
    pub burst: u32,
    /// Seconds until a whole burst is refilled.
    pub whole_in: u32,
    /// How many tokens the user can get now.
    pub remaining: u32,
    /// How many seconds `remaining` has to last: by then as many tokens are refilled, so a user who keeps that pace is never
    /// refused. With no token left, the seconds until the next one.
    pub lasts: u32,
}

/// The user has no tokens left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the user has asked for too many tokens")]
pub struct LimitExceeded(pub Allowance);

/// Counts the tokens of each user. Users of different tenants are different users, even with the same ID.
#[derive(Debug)]
pub struct TokenLimit<C: Clock = MonotonicClock> {
    quota: TokenQuota,
    hashes: [RandomState; 2],
    limiter: RateLimiter<UserKey, States, C, StateInformationMiddleware>,
}

/// A keyed hash of a user's ID and tenant. Without the key, a collision cannot be found.
type UserKey = [u64; 2];

impl TokenLimit {
    /// The maximum number of stored users.
    pub const MAX_USERS: u64 = 100_000;

    /// A limit with this quota for each user.
    #[must_use]
    pub fn new(quota: TokenQuota) -> Self {
        Self::with(quota, Self::MAX_USERS, MonotonicClock)
    }
}

impl<C: Clock> TokenLimit<C> {
    fn with(quota: TokenQuota, max_users: u64, clock: C) -> Self {
        let rate = Quota::per_minute(quota.per_minute).allow_burst(quota.burst);
        let states = States::of_at_most(max_users);
        Self { quota, hashes: Default::default(), limiter: RateLimiter::new(rate, states, clock) }
    }

    /// Counts one token for this user and returns what is left.
    pub fn take(&self, tenant: &TenantName, user_id: &str) -> Result<Allowance, LimitExceeded> {
        match self.limiter.check_key(&self.hashes.each_ref().map(|hash| hash.hash_one((tenant, user_id)))) {
            Ok(state) => {
                let remaining = state.remaining_burst_capacity();
                Ok(self.allowance(remaining, self.quota.interval() * remaining.max(1)))
            }
            Err(not_until) => {
                Err(LimitExceeded(self.allowance(0, not_until.wait_time_from(self.limiter.clock().now()))))
            }
        }
    }

    fn allowance(&self, remaining: u32, lasts: Duration) -> Allowance {
        let (burst, whole_in) = (self.quota.burst.get(), seconds(self.quota.refill_time()));
        Allowance { burst, whole_in, remaining, lasts: seconds(lasts) }
    }
}

/// Rounded up, and at least 1, so that no client retries at once.
fn seconds(duration: Duration) -> u32 {
    let whole = u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
    whole.saturating_add(u32::from(duration.subsec_nanos() > 0)).max(1)
}

/// The states of users.
#[derive(Debug)]
struct States(Cache<UserKey, Arc<InMemoryState>>);

impl States {
    fn of_at_most(max_users: u64) -> Self {
        let users = usize::try_from(max_users).unwrap_or(usize::MAX);
        // No user keeps a place by having asked often in the past: new users would soon be forgotten.
        let options = OptionsBuilder::new()
            .estimated_items_capacity(users)
            .weight_capacity(max_users)
            .hot_allocation(0.0)
            .ghost_allocation(0.0)
            .build();
        Self(options.map_or_else(
            |_| Cache::new(users),
            |options| {
                Cache::with_options(options, UnitWeighter, DefaultHashBuilder::default(), DefaultLifecycle::default())
            },
        ))
    }
}

impl StateStore for States {
    type Key = UserKey;

    fn measure_and_replace<T, F, E>(&self, user: &UserKey, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let Ok(state) = self.0.get_or_insert_with(user, || Ok::<_, Infallible>(Arc::default()));
        state.measure_and_replace(&NotKeyed::NonKey, decide)
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;
    use proptest::prelude::*;

    use super::*;

    fn limit(per_minute: u32, burst: u32, max_users: u64) -> (TokenLimit<FakeRelativeClock>, FakeRelativeClock) {
        let [per_minute, burst] = [per_minute, burst].map(|number| NonZeroU32::new(number).unwrap());
        let clock = FakeRelativeClock::default();
        (TokenLimit::with(TokenQuota { per_minute, burst }, max_users, clock.clone()), clock)
    }

    fn tenant(name: &str) -> TenantName {
        TenantName::parse(name).unwrap()
    }

    #[test]
    fn a_burst_is_allowed_at_once_and_then_one_token_each_interval() {
        let (limit, clock) = limit(60, 3, 10);
        let take = || limit.take(&tenant("t"), "user");
        for (remaining, lasts) in [(2, 2), (1, 1), (0, 1)] {
            assert_eq!(take(), Ok(Allowance { burst: 3, whole_in: 3, remaining, lasts }));
        }
        let exceeded = Err(LimitExceeded(Allowance { burst: 3, whole_in: 3, remaining: 0, lasts: 1 }));
        assert_eq!(take(), exceeded);
        clock.advance(Duration::from_millis(999));
        assert_eq!(take(), exceeded);
        clock.advance(Duration::from_millis(1));
        assert!(take().is_ok());
        assert_eq!(take(), exceeded);
        clock.advance(Duration::from_mins(5));
        assert_eq!(take().unwrap().remaining, 2);
    }

    #[test]
    fn a_user_who_waits_as_long_as_the_error_says_gets_a_token() {
        for (per_minute, burst) in [(1, 1), (7, 3), (60, 20), (61, 1), (6000, 2)] {
            let (limit, clock) = limit(per_minute, burst, 10);
            let take = || limit.take(&tenant("t"), "user");
            for step in [0, 1, 999, 7321] {
                clock.advance(Duration::from_millis(step));
                let exceeded = loop {
                    if let Err(exceeded) = take() {
                        break exceeded;
                    }
                };
                clock.advance(Duration::from_secs(exceeded.0.lasts.into()));
                assert!(take().is_ok(), "{per_minute} a minute, {burst} at once: {exceeded:?}");
            }
        }
    }

    #[test]
    fn users_and_tenants_do_not_spend_each_others_allowance() {
        let (limit, _clock) = limit(1, 1, 10);
        assert!(limit.take(&tenant("one"), "user").is_ok());
        assert!(limit.take(&tenant("one"), "user").is_err());
        assert!(limit.take(&tenant("one"), "other").is_ok());
        assert!(limit.take(&tenant("two"), "user").is_ok());
    }

    #[test]
    fn a_user_who_asks_without_pause_is_not_forgotten_for_others() {
        // Far more than the cache orders at a time.
        let (limit, _clock) = limit(1, 1, 2000);
        let greedy = || limit.take(&tenant("t"), "greedy").is_ok();
        assert!(greedy());
        for other in 0..20_000 {
            assert!(limit.take(&tenant("t"), &format!("user {other}")).is_ok());
            assert!(!greedy(), "forgotten after {other} others");
        }
    }

    #[test]
    fn a_user_is_remembered_until_many_others_have_asked() {
        for tokens in [1, 2, 5] {
            let (limit, _clock) = limit(1, tokens, 10_000);
            let take = |user: &str| limit.take(&tenant("t"), user).is_ok();
            // Those of former days, who asked often, need not be remembered longer.
            for former in 0..20_000 {
                (0..3).for_each(|_| _ = take(&format!("former {former}")));
            }
            assert!((0..tokens).all(|_| take("user")));
            for other in 0..5_000 {
                take(&format!("other {other}"));
            }
            assert!(!take("user"), "forgotten after {tokens} tokens and 5,000 others");
        }
    }

    #[test]
    fn the_number_of_remembered_users_is_bounded() {
        let (limit, _clock) = limit(1, 1, 100);
        for user in 0..10_000 {
            assert!(limit.take(&tenant("t"), &user.to_string()).is_ok());
        }
        let States(states) = limit.limiter.into_state_store();
        assert!(states.len() <= 100, "{}", states.len());
    }

    proptest! {
        #[test]
        fn a_user_who_keeps_the_pace_is_never_refused(
            (per_minute, burst) in (1..200u32, 1..30u32),
            pauses in prop::collection::vec(0..5000u64, 1..40),
            at in prop::collection::vec(0.0..=1.0f64, 30),
        ) {
            let (limit, clock) = limit(per_minute, burst, 10);
            let take = || limit.take(&tenant("t"), "user");
            let mut last = take();
            for pause in pauses {
                clock.advance(Duration::from_millis(pause));
                last = take();
            }
            let (Ok(allowance) | Err(LimitExceeded(allowance))) = last;
            prop_assert!(allowance.remaining * 60 <= allowance.lasts * per_minute, "no faster than grows: {allowance:?}");
            prop_assert!(allowance.burst * 60 <= allowance.whole_in * per_minute, "{allowance:?}");
            let lasts = Duration::from_secs(allowance.lasts.into());
            let mut moments: Vec<_> = at.into_iter().take(allowance.remaining as usize).map(|at| lasts.mul_f64(at)).collect();
            moments.sort_unstable();
            // At any moments of that time, and again and again.
            for _ in 0..3 {
                let mut passed = Duration::ZERO;
                for moment in &moments {
                    clock.advance(moment.saturating_sub(passed));
                    passed = *moment;
                    prop_assert!(take().is_ok(), "{allowance:?} at {moment:?}");
                }
                clock.advance(lasts.saturating_sub(passed));
            }
            if allowance.remaining == 0 {
                prop_assert!(take().is_ok());
            }
        }

        #[test]
        fn a_user_gets_at_most_a_burst_and_what_grew_back_since(
            per_minute in 1..200u32,
            burst in 1..20u32,
            pauses in prop::collection::vec(0..5000u64, 1..200),
        ) {
            let (limit, clock) = limit(per_minute, burst, 10);
            let (mut taken, mut passed) = (0, 0);
            for pause in pauses {
                clock.advance(Duration::from_millis(pause));
                passed += pause;
                match limit.take(&tenant("t"), "user") {
                    Ok(allowance) => {
                        taken += 1;
                        prop_assert!(allowance.remaining < burst);
                    }
                    Err(LimitExceeded(allowance)) => prop_assert_eq!(allowance.remaining, 0),
                }
                prop_assert!(taken <= u64::from(burst) + passed * u64::from(per_minute) / 60_000 + 1);
            }
        }
    }
}
