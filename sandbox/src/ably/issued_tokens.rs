//! The tokens that `requestToken` issued, in bounded memory.

use std::collections::{HashMap, VecDeque};

use super::{
    access::{Access, Lifetime},
    records::IssuedToken,
};

const MOST_TOKENS: usize = 20_000;
const MOST_CAPABILITY_BYTES: usize = 64 * 1024 * 1024;

/// How long an expired token is remembered, in milliseconds.
const EXPIRED_TOKEN_KEPT_MS: i64 = 60 * 60 * 1000;

/// Issued tokens, in the order of issue.
#[derive(Debug, Default)]
pub(crate) struct IssuedTokens {
    by_token: HashMap<String, Access>,
    records: VecDeque<(String, IssuedToken)>,
    capability_bytes: usize,
    last_issued_ms: i64,
}

impl IssuedTokens {
    pub(crate) fn find(&self, token: &str) -> Option<&Access> {
        self.by_token.get(token)
    }

    /// The issue time of the newest token, in milliseconds since the epoch.
    pub(crate) fn last_issued_ms(&self) -> i64 {
        self.last_issued_ms
    }

    /// The remembered tokens, oldest first.
    pub(crate) fn records(&self) -> Vec<IssuedToken> {
        self.records.iter().map(|(_, record)| record.clone()).collect()
    }

    pub(crate) fn add(&mut self, token: String, access: Access, lifetime: Lifetime) {
        self.last_issued_ms = self.last_issued_ms.max(lifetime.issued_ms);
        let record = IssuedToken {
            id: access.id.clone(),
            client_id: access.client_id.clone(),
            capability: access.capability.to_string(),
            issued: lifetime.issued_ms,
            expires: lifetime.expires_ms,
        };
        self.capability_bytes += record.capability.len();
        self.records.push_back((token.clone(), record));
        self.by_token.insert(token, access);
        while self.records.len() > MOST_TOKENS || self.capability_bytes > MOST_CAPABILITY_BYTES {
            self.forget_oldest();
        }
    }

    /// Forgets tokens that expired more than an hour ago.
    pub(crate) fn forget_expired(&mut self, now_ms: i64) {
        while self
            .records
            .front()
            .is_some_and(|(_, token)| token.expires.saturating_add(EXPIRED_TOKEN_KEPT_MS) < now_ms)
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((token, record)) = self.records.pop_front() {
            self.capability_bytes -= record.capability.len();
            self.by_token.remove(&token);
        }
    }
}
