//! A revocation task: a revocation at Ably that waits in the store, and the tokens that it ends.

use std::{collections::BTreeSet, iter, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    ably::{ClientId, KeyName, ReauthMargin, RevocationKey, RevokeOutcome, Target, TokenFormat},
    clock::UnixMillis,
    store::{
        ClientIdDigest, DenialSource, LiveToken, LiveTokens, Restriction, RestrictionKind, StoredTask, Subject,
        TokenHolder,
    },
    tenant::{Tenant, TenantName},
};

/// A revocation at Ably.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Task {
    pub(super) tenant: TenantName,
    pub(super) scope: RevocationScope,
    /// The user of the session in the scope, if known.
    pub(super) session_user: Option<String>,
    /// What to revoke if no live token is known although there may be some.
    pub(super) expected: Option<Target>,
    /// What Ably has not revoked yet. `None`: what a look-up finds.
    pub(super) unrevoked: Option<BTreeSet<SignedTarget>>,
    /// Whether other replicas' tokens are still to be looked up: `unrevoked` is only of those that this replica knew.
    #[serde(default)]
    pub(super) others_unsearched: bool,
    /// The event's timestamp.
    pub(super) at: UnixMillis,
    /// When it is due. It can be stored as due later, if whoever stores it performs it now.
    pub(super) due: UnixMillis,
    /// When the last token in the scope has expired.
    pub(super) until: UnixMillis,
    /// The denials that it follows from. Once all of them are lifted, or replaced by an operator's that have ended, it is skipped.
    pub(super) denials: Vec<(Subject, DenialSource)>,
}

impl Task {
    /// How long after a revocation it is repeated. A token request can be exchanged for two minutes, and clocks differ.
    pub(super) const REPEAT_AFTER: Duration = Duration::from_secs(150);
    /// A revocable token lives for an hour at most: Ably refuses a longer one with 40003.
    pub(super) const LONGEST_TOKEN: Duration = Duration::from_hours(1);
    /// About 100 KB.
    pub(super) const MOST_TARGETS: usize = 1000;

    /// The revocation that follows from a restriction, if it ends tokens and the tenant's can be revoked.
    pub(super) fn of(restriction: &Restriction, tenant: &Tenant, now: UnixMillis) -> Option<Self> {
        let scope = RevocationScope::of(restriction).filter(|_| tenant.is_revocable())?;
        let denials = match restriction.kind {
            RestrictionKind::Denied(source) => vec![(restriction.subject.clone(), source)],
            _ => Vec::new(),
        };
        let session_user = restriction.session_user.clone();
        Some(Self { session_user, denials, ..Self::new(tenant, scope, restriction.at, now) })
    }

    pub(super) fn new(tenant: &Tenant, scope: RevocationScope, at: UnixMillis, now: UnixMillis) -> Self {
        // A replica that does not know of the denial may issue tokens until the denial ends.
        let until = now.after(tenant.tokens_end_within());
        let expected = match &scope {
            RevocationScope::Of(Subject::User(user)) => tenant.expected_target(user, None),
            _ => None,
        };
        let (tenant, denials) = (tenant.name.clone(), Vec::new());
        let (session_user, unrevoked, others_unsearched) = (None, None, false);
        Self { tenant, scope, session_user, expected, unrevoked, others_unsearched, at, due: now, until, denials }
    }

    /// The first revocation and the second. `name` is part of their IDs: an event has the same at every delivery. Whoever claims
    /// the first by its ID lets it become due after the lease: else replicas that look for due tasks perform it too.
    pub(super) fn stored(&self, name: &str, first_due: UnixMillis, now: UnixMillis) -> [StoredTask; 2] {
        let scope = serde_json::to_string(&self.scope).unwrap_or_default();
        let again = now.after(Self::REPEAT_AFTER);
        [("first", now, first_due), ("again", again, again)].map(|(turn, due, stored_as_due)| {
            let id = format!("{}/{scope}/{}/{name}/{turn}", self.tenant, self.at.0);
            StoredTask { id, due: stored_as_due, payload: Self { due, ..self.clone() }.payload() }
        })
    }

    /// Keeps as many targets as Redis can surely be sent at once. Returns tasks with the others.
    pub(super) fn split(&mut self, stored: &StoredTask) -> Vec<StoredTask> {
        let Some(unrevoked) = self.unrevoked.take() else { return Vec::new() };
        let mut targets = unrevoked.into_iter();
        let mut part = || targets.by_ref().take(Self::MOST_TARGETS).collect::<BTreeSet<_>>();
        self.unrevoked = Some(part());
        let others = iter::from_fn(|| Some(part()).filter(|part| !part.is_empty()));
        let tasks = others.enumerate().map(|(number, part)| {
            let task = Self { unrevoked: Some(part), others_unsearched: false, ..self.clone() };
            StoredTask { id: format!("{}/{number}", stored.id), due: stored.due, payload: task.payload() }
        });
        tasks.collect()
    }

    pub(super) fn payload(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// The tokens to revoke.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevocationScope {
    /// The tokens of a restriction's subject.
    Of(Subject),
    /// A user's tokens with other client IDs than the current one.
    FormerClientIds {
        /// The user.
        user: String,
        /// The user's current client ID. `None`: the user has none.
        client_id: Option<ClientIdDigest>,
    },
    /// All tokens with this client ID.
    ClientId(ClientId),
}

impl RevocationScope {
    /// The tokens that a new restriction ends. `None` if it ends none.
    pub(super) fn of(restriction: &Restriction) -> Option<Self> {
        Some(match (restriction.subject.clone(), restriction.kind) {
            (_, RestrictionKind::Lifted(_)) | (Subject::User(_), RestrictionKind::NotBefore) => return None,
            (Subject::User(user), RestrictionKind::ClientId(client_id)) => Self::FormerClientIds { user, client_id },
            (subject, _) => Self::Of(subject),
        })
    }

    /// The ID of the session, user or organization, or the client ID.
    #[must_use]
    pub fn id(&self) -> &str {
        match self {
            Self::Of(Subject::Session(id) | Subject::Organization(id)) => id,
            Self::Of(Subject::User(user) | Subject::Member { user, .. }) | Self::FormerClientIds { user, .. } => user,
            Self::ClientId(client_id) => client_id.as_str(),
        }
    }

    /// What the live tokens are looked up by: if possible by their user, which costs least. `session_user` is the user of a
    /// session, if known.
    pub(super) fn holder(&self, session_user: Option<&str>) -> TokenHolder {
        let id = self.id().to_owned();
        match (self, session_user) {
            (Self::Of(Subject::Session(_)), Some(user)) => TokenHolder::User(user.to_owned()),
            (Self::Of(Subject::Session(_)), None) => TokenHolder::Session(id),
            (Self::Of(Subject::Organization(_)), _) => TokenHolder::Organization(id),
            (Self::ClientId(_), _) => TokenHolder::ClientId(id),
            _ => TokenHolder::User(id),
        }
    }

    /// How soon the tokens end. With the margin, clients that may have a new token stay connected; so do the user's other
    /// devices where a session cannot be revoked alone.
    pub(super) fn margin(&self, format: TokenFormat) -> ReauthMargin {
        match self {
            Self::Of(Subject::User(_)) | Self::ClientId(_) => ReauthMargin::None,
            Self::Of(Subject::Session(_)) if format == TokenFormat::Jwt => ReauthMargin::None,
            Self::Of(_) | Self::FormerClientIds { .. } => ReauthMargin::Reauthentication,
        }
    }

    /// The targets of a revocation at Ably. A session's JWTs are revoked by the session, all other tokens by client ID. Live
    /// tokens may be older than a change of the tenant's format.
    ///
    /// Skips IDs that no token can have: someone else wrote them to the store.
    pub(super) fn targets(&self, tenant: &Tenant, live_tokens: &[LiveToken]) -> BTreeSet<SignedTarget> {
        let by_session = |id: &str| RevocationKey::parse(id).ok().map(Target::RevocationKey);
        let by_client_id = |id: &str| ClientId::parse(id).ok().map(Target::ClientId);
        let even_if_unknown = match self {
            Self::Of(Subject::Session(session)) if tenant.format() == TokenFormat::Jwt => by_session(session),
            Self::ClientId(client_id) => Some(Target::ClientId(client_id.clone())),
            _ => None,
        };
        let is_of_sessions =
            matches!(self, Self::Of(Subject::Session(_) | Subject::Member { .. } | Subject::Organization(_)));
        let of_live_tokens = live_tokens.iter().filter_map(|LiveToken { session, client_id, format, key, .. }| {
            let is_jwt = *format == TokenFormat::Jwt;
            let target = if is_of_sessions && is_jwt { by_session(session) } else { by_client_id(client_id) };
            Some(SignedTarget { key: key.clone(), target: target? })
        });
        SignedTarget::by_all_keys(tenant, even_if_unknown.as_ref()).into_iter().chain(of_live_tokens).collect()
    }

    /// Whether a live token of this scope's holder is in the scope.
    pub(super) fn includes(&self, live_token: &LiveToken) -> bool {
        match self {
            Self::Of(Subject::Session(session)) => live_token.session == *session,
            Self::Of(Subject::Member { organization, .. }) => live_token.organization.as_ref() == Some(organization),
            Self::FormerClientIds { client_id, .. } => *client_id != Some(ClientIdDigest::of(&live_token.client_id)),
            Self::Of(_) | Self::ClientId(_) => true,
        }
    }
}

/// A target, and the API key that signed its tokens: Ably revokes by key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct SignedTarget {
    pub(super) key: KeyName,
    pub(super) target: Target,
}

impl SignedTarget {
    /// Any key may have signed tokens that are not known.
    pub(super) fn by_all_keys(tenant: &Tenant, target: Option<&Target>) -> BTreeSet<Self> {
        let keys = tenant.key_names().into_iter();
        keys.filter_map(|key| Some(Self { key: key.clone(), target: target?.clone() })).collect()
    }
}

/// What came of a task.
pub(super) struct Performed {
    pub(super) outcomes: Vec<(SignedTarget, RevokeOutcome)>,
    pub(super) live: LiveTokens,
    /// When to go on. `None`: everything is done.
    pub(super) retry_at: Option<UnixMillis>,
}

impl Performed {
    pub(super) const NOTHING: Self = Self { outcomes: Vec::new(), live: LiveTokens::NONE, retry_at: None };
}
