//! Why a session token gets no session.

/// Why a session token is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message says it")]
pub enum Invalid {
    #[error("not a JWT of three parts")]
    Malformed,
    #[error("a machine token or a JWT template, not a session token")]
    NotASession,
    #[error("the header's typ is not JWT")]
    Type,
    #[error("the header's alg is not RS256")]
    Algorithm,
    #[error("the header has crit, and this service supports no extension (RFC 7515 section 4.1.11)")]
    CriticalExtension,
    #[error("the header's kid is not a string")]
    KeyId,
    #[error("no signing key of this instance has the token's kid")]
    UnknownKey,
    #[error("the signature was not made with the instance's key")]
    Signature,
    #[error("sub is not a non-empty string")]
    Subject,
    #[error("aud is not among the configured audiences")]
    Audience,
    #[error("azp is missing, and authorized parties are configured; native apps need CLERK_NATIVE_APPS=true")]
    AuthorizedPartyMissing,
    #[error("azp is not among the configured authorized parties")]
    AuthorizedParty,
    #[error("iss is not the instance's Frontend API")]
    Issuer,
    #[error("exp is not a number")]
    ExpirationMissing,
    #[error("expired")]
    Expired,
    #[error("nbf is not a number, or in the future")]
    NotYetValid,
    #[error("iat is not a number, or in the future")]
    IssuedInTheFuture,
    #[error("iat is missing, so a denial might end before the token")]
    IssuedAtMissing,
    #[error("the time from iat to exp is longer than a denial")]
    LivesTooLong,
    #[error("sid is missing, so a sign-out could not reach the token")]
    SessionIdMissing,
    #[error("act has no sub, so it is unknown who acts in the user's name")]
    Actor,
    #[error("sts is pending: the session still has tasks to complete")]
    Pending,
    #[error("fea, or the organization's per or fpm, is malformed")]
    Features,
}

impl Invalid {
    /// The error for a token that is not a JWT. Clerk's opaque tokens are for machines and agents.
    pub(super) fn undecodable(token: &str) -> Self {
        const OPAQUE: [&str; 3] = ["ak_", "mt_", "oat_"];
        if OPAQUE.iter().any(|prefix| token.starts_with(prefix)) { Self::NotASession } else { Self::Malformed }
    }
}

/// Why verification failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unverified {
    /// The token is invalid.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// No signing keys are available.
    #[error("Clerk's signing keys are not available")]
    KeysUnavailable,
}
