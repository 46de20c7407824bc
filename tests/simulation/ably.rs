//! A simulated Ably: what it has revoked, and when it cannot be used.

use std::{sync::Arc, time::Duration};

use ably_clerk_auth::{
    ably::{AblyRefusal, KeyName, ReauthMargin, RestError, RevokeTokens, Target, TargetError, TargetOutcome},
    clock::UnixMillis,
    tenant::TenantName,
};
use async_trait::async_trait;

use crate::{
    random::Random,
    work,
    world::{World, lock},
};

/// A revocation that Ably accepted. It covers the tokens of its target that its key signed and that were issued before `at`.
#[derive(Clone, Debug)]
pub(crate) struct Revoked {
    pub(crate) tenant: TenantName,
    pub(crate) key: KeyName,
    pub(crate) target: Target,
    pub(crate) margin: ReauthMargin,
    pub(crate) at: UnixMillis,
}

/// How Ably fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AblyFault {
    Unreachable,
    Slow,
    AnswersLost,
    RateLimited,
    /// It revokes some targets of a call.
    RevokesSome,
}

#[derive(Default)]
pub(crate) struct Ably {
    pub(crate) revoked: Vec<Revoked>,
    pub(crate) calls: usize,
    /// Each for all replicas or for one, until a time.
    faults: Vec<(AblyFault, Option<usize>, UnixMillis)>,
}

impl Ably {
    /// Fails until `until`, for one replica or for all.
    pub(crate) fn fail(&mut self, fault: AblyFault, replica: Option<usize>, until: UnixMillis) {
        self.faults.push((fault, replica, until));
    }

    pub(crate) fn has_failed(&self) -> bool {
        !self.faults.is_empty()
    }

    fn fails(&self, fault: AblyFault, replica: usize, now: UnixMillis) -> bool {
        let mut faults = self.faults.iter();
        faults
            .any(|(known, whose, until)| *known == fault && whose.is_none_or(|whose| whose == replica) && now < *until)
    }
}

/// Ably as one run of a replica sees it, for one tenant and one of its API keys.
pub(crate) struct SimulatedAbly {
    pub(crate) world: Arc<World>,
    pub(crate) run: usize,
    pub(crate) replica: usize,
    pub(crate) tenant: TenantName,
    pub(crate) key: KeyName,
}

impl std::fmt::Debug for SimulatedAbly {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ably for {}", self.tenant)
    }
}

impl SimulatedAbly {
    async fn stop_if_crashed(&self) {
        if !lock(&self.world.replicas).is_running(self.run) {
            std::future::pending::<()>().await;
        }
    }

    fn fails(&self, fault: AblyFault) -> bool {
        lock(&self.world.ably).fails(fault, self.replica, self.world.now())
    }
}

#[async_trait]
impl RevokeTokens for SimulatedAbly {
    async fn revoke_tokens(&self, targets: &[Target], margin: ReauthMargin) -> Result<Vec<TargetOutcome>, RestError> {
        const TIMEOUT_MILLIS: u64 = 2000;
        let world = &self.world;
        let unavailable = RestError::Status { status: 503, retry_after: None };
        self.stop_if_crashed().await;
        lock(&world.ably).calls += 1;
        for target in targets {
            if let Target::ClientId(client_id) = target {
                work::is_being_done(world, self.run, client_id.as_str());
            }
        }
        let delay = if self.fails(AblyFault::Slow) { 0..2500 } else { 0..60 };
        let (there, back) = world.random(|random| (random.within(delay.clone()), random.within(delay)));
        world.pause(there).await;
        self.stop_if_crashed().await;
        if self.fails(AblyFault::Unreachable) || there >= TIMEOUT_MILLIS {
            world.pause(TIMEOUT_MILLIS.saturating_sub(there)).await;
            return Err(unavailable);
        }
        if self.fails(AblyFault::RateLimited) && world.random(|random| random.percent(70)) {
            let seconds = world.random(|random| random.within(1..20));
            let retry_after = (seconds < 15).then(|| Duration::from_secs(seconds));
            return Err(RestError::Refused(AblyRefusal { status: 429, code: 42910, retry_after }));
        }
        let at = world.now();
        let some = self.fails(AblyFault::RevokesSome);
        let is_revoked: Vec<_> = targets.iter().map(|_| !some || world.random(|random| random.percent(50))).collect();
        for (target, _) in targets.iter().zip(&is_revoked).filter(|(_, is_revoked)| **is_revoked) {
            let Self { tenant, key, run, .. } = self;
            world.trace(|| format!("Ably revokes {target} of {tenant} and {key} ({margin:?}), for run {run}"));
            let (tenant, key, target) = (tenant.clone(), key.clone(), target.clone());
            lock(&world.ably).revoked.push(Revoked { tenant, key, target, margin, at });
        }
        let is_lost = self.fails(AblyFault::AnswersLost) && world.random(|random| random.percent(50));
        if is_lost || there + back >= TIMEOUT_MILLIS {
            world.pause(TIMEOUT_MILLIS.saturating_sub(there)).await;
            return Err(unavailable);
        }
        world.pause(back).await;
        let applies_at = match margin {
            ReauthMargin::None => at,
            ReauthMargin::Reauthentication => at.after(Duration::from_secs(30)),
        };
        Ok(is_revoked
            .into_iter()
            .map(|is_revoked| is_revoked.then_some(applies_at).ok_or(TargetError::NoResult))
            .collect())
    }

    fn jitter(&self) -> f64 {
        self.world.random(Random::fraction)
    }
}
