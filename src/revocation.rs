//! Access that ends: what an event at Clerk ends or changes is denied here and revoked at Ably.
//!
//! A denial or a mark comes first: what is revoked asks for a token again at once. Then Ably is told, and told once more
//! after [`Revocation::AGAIN_AFTER`]: a token request that was signed a moment before can still be exchanged for two
//! minutes, and yields a token that the first revocation does not reach.

pub mod by_hand;
mod effect;

use std::{sync::Arc, time::Duration};

use moka::sync::Cache;
use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval};

pub use effect::Whom;
use effect::{Effect, targets};

use crate::{
    ably::{ApiKey, Margin, RestClient, RestError, Target, TokenFormat},
    clerk::{Change, Event, User, Users},
    clock::{self, UnixMillis},
    identity::ClientIdTemplate,
    store::{DueWork, Fact, GrantedTo, Recorded, Source, Store, StoreError, Subject},
    telemetry::metrics::RevocationCounts,
    tenant::TenantName,
};

/// Ends access, of the users of all tenants.
#[derive(Debug)]
pub struct Revocation {
    store: Arc<dyn Store>,
    tenants: Vec<Authority>,
    /// The username that the last event about a user told, by tenant and user: one that is the same is no change.
    usernames: Cache<(TenantName, String), Option<String>>,
}

/// What it takes to end the access of a tenant's users.
#[derive(Debug)]
pub struct Authority {
    /// Whose users.
    pub tenant: TenantName,
    /// How long somebody is denied: longer than any session token lives.
    pub denial: Duration,
    /// What tokens are given as.
    pub format: TokenFormat,
    /// Who a user is on Ably.
    pub client_id: ClientIdTemplate,
    /// Users that are remembered, if any are.
    pub users: Option<Users>,
    /// Ably; none unless the key has revocable tokens.
    pub ably: Option<RevokingKey>,
    /// Counts what becomes of revocations.
    pub counts: RevocationCounts,
}

/// An API key that revokes the tokens issued with it.
#[derive(Clone, Debug)]
pub struct RevokingKey {
    /// Ably's REST API.
    pub rest: RestClient,
    /// The key.
    pub api_key: ApiKey,
}

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It has taken effect, or what is left of it is stored as work to be done.
    InForce,
    /// A newer one had come before it.
    Outdated,
}

/// Why an event is not safe to forget yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Incomplete {
    /// The denial, or the work that is left, is not stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Ably has not taken the revocation, and nobody else would try again.
    #[error("Ably cannot be told to revoke tokens now")]
    Ably,
}

/// Tokens to be revoked, as it waits in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Task {
    tenant: TenantName,
    whom: Whom,
    margin: Margin,
    /// What was to be revoked when the event came. What came after it is looked up when the time has come.
    targets: Vec<Target>,
    /// The event's timestamp.
    at: UnixMillis,
    /// When it took effect here, by this service's clock: much later than the event if that could not be delivered.
    #[serde(default)]
    denied_at: Option<UnixMillis>,
    /// Whom an operator denied: when none of them is any more, it is not to be revoked again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    denied: Vec<Subject>,
}

/// What Ably said of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// Its tokens are revoked.
    Accepted { applies_at: UnixMillis },
    /// They are not, for a reason that does not pass by itself.
    Refused { code: Option<u32> },
    /// Nothing: it is to be tried again.
    Unavailable,
}

impl Revocation {
    /// How long after a revocation it is repeated. A token request is good for two minutes, and clocks differ.
    pub const AGAIN_AFTER: Duration = Duration::from_secs(150);
    /// How often the store is asked for work that is due.
    const LOOK_EVERY: Duration = Duration::from_secs(1);
    /// When to try again what Ably did not take.
    const RETRY_AFTER: Duration = Duration::from_secs(5);
    /// A token that can be revoked lives for an hour at most (40003 above it).
    const LONGEST_LIFE: Duration = Duration::from_hours(1);
    const MOST_WORK_AT_ONCE: usize = 50;
    const MOST_USERNAMES: u64 = 100_000;
    /// As long as a token can be out under an old name, and more.
    const USERNAMES_FOR: Duration = Duration::from_hours(48);

    /// Ends access by way of `store`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, tenants: Vec<Authority>) -> Self {
        let usernames = Cache::builder().max_capacity(Self::MOST_USERNAMES).time_to_live(Self::USERNAMES_FOR).build();
        Self { store, tenants, usernames }
    }

    fn authority(&self, tenant: &TenantName) -> Option<&Authority> {
        self.tenants.iter().find(|authority| authority.tenant == *tenant)
    }

    /// Lets an event take effect. It may be forgotten once this is `Ok`.
    pub async fn apply(&self, tenant: &TenantName, event: &Event, now: UnixMillis) -> Result<Applied, Incomplete> {
        let Some(authority) = self.authority(tenant) else { return Ok(Applied::InForce) };
        let known = match &event.change {
            Change::UserUpdated(user) if !self.is_same_name(tenant, user) => {
                self.store.grants(tenant, &GrantedTo::User(user.id.clone()), now).await.grants
            }
            _ => Vec::new(),
        };
        let effect = Effect::of(event, authority, &known, now);
        for fact in &effect.facts {
            if self.store.record(fact.clone(), now).await? == Recorded::Outdated {
                return Ok(Applied::Outdated);
            }
        }
        if let Some(user) = &effect.forget {
            self.store.drop_user(tenant, user).await?;
        }
        if let Some(user) = effect.learn
            && let Some(users) = &authority.users
        {
            users.learn(user);
        }
        if let Some((whom, margin)) = effect.revoke {
            self.revoke(authority, whom, margin, event.at, now).await?;
        }
        if let Change::UserUpdated(user) = &event.change {
            self.usernames.insert((tenant.clone(), user.id.clone()), user.username.clone());
        }
        Ok(Applied::InForce)
    }

    /// Whether the last event about the user told the same name, so that whoever is out under another was told of then.
    fn is_same_name(&self, tenant: &TenantName, user: &User) -> bool {
        self.usernames.get(&(tenant.clone(), user.id.clone())).is_some_and(|username| username == user.username)
    }

    async fn revoke(
        &self,
        authority: &Authority,
        whom: Whom,
        margin: Margin,
        at: UnixMillis,
        now: UnixMillis,
    ) -> Result<(), Incomplete> {
        let Some(key) = &authority.ably else { return Ok(()) };
        let targets = self.targets(authority, &whom, now).await;
        let (tenant, denied_at) = (authority.tenant.clone(), Some(now));
        let task = Task { tenant, whom, margin, targets, at, denied_at, denied: Vec::new() };
        self.store.enqueue(task.as_work("again", now.after(Self::AGAIN_AFTER)), now).await?;
        let told = authority.tell(key, &task.targets, margin).await;
        if !Told::is_to_be_tried_again(&told) {
            return Ok(());
        }
        if !self.store.is_shared() {
            return Err(Incomplete::Ably);
        }
        Ok(self.store.enqueue(task.as_work("first", now.after(Self::RETRY_AFTER)), now).await?)
    }

    async fn targets(&self, authority: &Authority, whom: &Whom, now: UnixMillis) -> Vec<Target> {
        let live = match whom.holder() {
            Some(holder) => self.store.grants(&authority.tenant, &holder, now).await.grants,
            None => Vec::new(),
        };
        targets(whom, authority.format, &live)
    }

    /// Does what is due, for ever.
    pub async fn work(self: Arc<Self>) {
        let mut look = interval(Self::LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            self.do_due_work(UnixMillis::now).await;
        }
    }

    /// Does what is due once. `now` is asked for each piece, as the one before it may have waited for Ably.
    async fn do_due_work(&self, now: impl Fn() -> UnixMillis) {
        for work in self.store.claim(Self::MOST_WORK_AT_ONCE, now()).await {
            self.perform(work, now()).await;
        }
    }

    async fn perform(&self, work: DueWork, now: UnixMillis) {
        let told = if let Ok(task) = serde_json::from_str::<Task>(&work.job) {
            self.perform_task(task, now).await
        } else {
            tracing::warn!("work in the store is of another version's making; it is left to a replica that knows it");
            vec![Told::Unavailable]
        };
        // Work that stays claimed comes again when the lease is over.
        let _ = if Told::is_to_be_tried_again(&told) {
            self.store.postpone(&work.id, now.after(Self::RETRY_AFTER)).await
        } else {
            self.store.complete(&work.id).await
        };
    }

    async fn perform_task(&self, task: Task, now: UnixMillis) -> Vec<Told> {
        let authority = self.authority(&task.tenant);
        let Some((authority, key)) =
            authority.and_then(|authority| authority.ably.as_ref().map(|key| (authority, key)))
        else {
            tracing::warn!(tenant = %task.tenant, "tokens to be revoked are of no tenant here that can; it is left to others");
            return if task.is_over(now) { Vec::new() } else { vec![Told::Unavailable] };
        };
        if task.is_over(now) || self.is_lifted(&task) {
            tracing::info!(tenant = %task.tenant, "tokens need not be revoked any more: they have ended, or the denial is lifted");
            return Vec::new();
        }
        let mut targets = self.targets(authority, &task.whom, now).await;
        targets.extend(task.targets.into_iter().filter(|target| !targets.contains(target)).collect::<Vec<_>>());
        authority.tell(key, &targets, task.margin).await
    }

    /// Whether a ban was lifted since, or what an operator denied.
    fn is_lifted(&self, task: &Task) -> bool {
        let is_lifted =
            |subject: &Subject, source| self.store.facts().is_lifted_since(&task.tenant, subject, source, task.at);
        match &task.whom {
            _ if !task.denied.is_empty() => task.denied.iter().all(|subject| is_lifted(subject, Source::Operator)),
            Whom::User(user) => is_lifted(&Subject::User(user.clone()), Source::Clerk),
            _ => false,
        }
    }
}

impl Authority {
    /// A fact that counts for as long as a session token can live.
    fn fact(&self, subject: Subject, ruling: crate::store::Ruling, at: UnixMillis, now: UnixMillis) -> Fact {
        Fact { tenant: self.tenant.clone(), subject, ruling, at, until: now.after(self.denial) }
    }

    /// Has Ably revoke tokens, and returns what it said of each target. That is logged and counted too.
    async fn tell(&self, key: &RevokingKey, targets: &[Target], margin: Margin) -> Vec<Told> {
        let tenant = self.tenant.as_str();
        let mut told = Vec::with_capacity(targets.len());
        for some in targets.chunks(RestClient::MOST_TARGETS) {
            let outcomes = match key.rest.revoke_tokens(&key.api_key, some, margin).await {
                Ok(outcomes) => outcomes,
                Err(error) => {
                    self.log_failure(&error);
                    told.resize(told.len() + some.len(), Told::from(&error));
                    continue;
                }
            };
            for (target, outcome) in some.iter().zip(outcomes) {
                told.push(match outcome {
                    Ok(applied) => {
                        self.counts.accepted.inc();
                        tracing::info!(tenant, %target, "tokens revoked");
                        Told::Accepted { applies_at: applied.applies_at }
                    }
                    Err(error) if error.passes_by_itself() => {
                        self.counts.unavailable.inc();
                        tracing::warn!(tenant, %target, %error, "Ably did not revoke these tokens; it is tried again");
                        Told::Unavailable
                    }
                    Err(error) => {
                        self.counts.refused.inc();
                        tracing::error!(tenant, %target, %error, "Ably refuses to revoke these tokens");
                        Told::Refused { code: Some(error.code) }
                    }
                });
            }
        }
        told
    }

    fn log_failure(&self, error: &RestError) {
        let tenant = self.tenant.as_str();
        if error.passes_by_itself() {
            self.counts.unavailable.inc();
            tracing::warn!(tenant, %error, "Ably did not revoke tokens; it is tried again");
        } else {
            self.counts.refused.inc();
            tracing::error!(
                tenant,
                %error,
                "Ably refuses to revoke tokens: sessions are denied here, and connections stay until their token ends. Does \
                 the API key have revocable tokens on?"
            );
        }
    }
}

impl Told {
    fn is_to_be_tried_again(told: &[Self]) -> bool {
        told.contains(&Self::Unavailable)
    }
}

impl From<&RestError> for Told {
    fn from(error: &RestError) -> Self {
        match error {
            error if error.passes_by_itself() => Self::Unavailable,
            RestError::Refused(refusal) => Self::Refused { code: Some(refusal.code) },
            _ => Self::Refused { code: None },
        }
    }
}

impl Task {
    /// Whether every token that it is about has ended: what is issued after the denial is none of them.
    fn is_over(&self, now: UnixMillis) -> bool {
        let denied_at = self.denied_at.unwrap_or(self.at);
        denied_at.after(Revocation::LONGEST_LIFE).after(2 * Revocation::AGAIN_AFTER) < now
    }

    fn as_work(&self, turn: &str, due: UnixMillis) -> DueWork {
        let job = serde_json::to_string(self).unwrap_or_default();
        let whom = serde_json::to_string(&self.whom).unwrap_or_default();
        DueWork { id: format!("{}/{whom}/{}/{turn}", self.tenant, self.at.0), due, job }
    }
}

/// How long somebody is denied whose session tokens live for `longest_life` at most, by clocks that differ by `skew_ms`.
#[must_use]
pub fn denial(longest_life: Duration, skew_ms: i64) -> Duration {
    longest_life + 2 * Duration::from_millis(skew_ms.unsigned_abs())
}

/// When a token ends that is issued now, at the latest: a token request can be exchanged for two minutes.
#[must_use]
pub fn ends_by(format: TokenFormat, ttl: Duration, now: UnixMillis) -> UnixMillis {
    const TO_BE_EXCHANGED: Duration = Duration::from_mins(2);
    let to_be_exchanged = if format == TokenFormat::TokenRequest { TO_BE_EXCHANGED } else { Duration::ZERO };
    UnixMillis(now.0.saturating_add(clock::millis(ttl + to_be_exchanged)))
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_with_ably;
