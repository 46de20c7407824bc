//! The stand-ins for Clerk and Ably, and what is signed for them.

use std::{cell::RefCell, collections::HashMap, path::Path, sync::Arc};

use anyhow::Result;
use sandbox::{
    ably::{self, Ably},
    clerk::{self, Clerk, User},
};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::tokens::{Contents, Expiry, KID, Pool, Signer, Username, user_id};

/// How many users the stand-in for Clerk has: as many as have tokens without a username.
pub(crate) const LOOKED_UP_USERS: usize = 1000;

/// Both stand-ins and the pools of session tokens.
pub(crate) struct StandIns {
    pub(crate) clerk: Clerk,
    pub(crate) ably: Ably,
    pub(crate) signer: Signer,
    /// How many tokens a pool has.
    tokens: usize,
    claims: Value,
    pools: RefCell<HashMap<&'static str, Arc<Pool>>>,
    _runtime: Runtime,
}

impl StandIns {
    /// Starts both on free ports. The signing key and the pools, each of so many tokens, are kept in `directory`.
    pub(crate) fn start(directory: &Path, tokens: usize) -> Result<Self> {
        let runtime = Runtime::new()?;
        let signer = Signer::in_directory(directory)?;
        let options = clerk::Options {
            kid: KID.to_owned(),
            signing_key: Some(signer.pkcs8().to_vec()),
            ..clerk::Options::default()
        };
        let (clerk, ably) = runtime.block_on(async {
            Ok::<_, anyhow::Error>((Clerk::start(options).await?, Ably::start(ably::Options::default()).await?))
        })?;
        for user in 0..LOOKED_UP_USERS {
            clerk.set_user(User {
                username: Some(format!("user{user:06}")),
                plan: Some("pro".to_owned()),
                ..User::new(user_id(user))
            });
        }
        let claims = clerk.session_claims(&user_id(0));
        Ok(Self { clerk, ably, signer, tokens, claims, pools: RefCell::default(), _runtime: runtime })
    }

    /// Session tokens with a username, each of another user.
    pub(crate) fn unique(&self) -> Result<Arc<Pool>> {
        self.pool(Contents { users: self.tokens, ..self.contents("unique") })
    }

    /// Session tokens without a username, of users that the stand-in for Clerk has.
    pub(crate) fn without_username(&self) -> Result<Arc<Pool>> {
        self.pool(Contents { username: Username::Missing, ..self.contents("without-username") })
    }

    /// Session tokens without a username, of other users that the stand-in for Clerk does not have.
    pub(crate) fn of_unknown_users(&self) -> Result<Arc<Pool>> {
        const TOKENS: usize = 5000;
        let contents = self.contents("of-unknown-users");
        let username = Username::Missing;
        self.pool(Contents { tokens: TOKENS, users: TOKENS, first_user: LOOKED_UP_USERS, username, ..contents })
    }

    /// Session tokens of ten users.
    pub(crate) fn of_ten_users(&self) -> Result<Arc<Pool>> {
        self.pool(Contents { users: 10, ..self.contents("of-ten-users") })
    }

    /// Session tokens that have expired.
    pub(crate) fn expired(&self) -> Result<Arc<Pool>> {
        self.pool(Contents { users: self.tokens, expiry: Expiry::Past, ..self.contents("expired") })
    }

    fn contents(&self, name: &'static str) -> Contents {
        Contents {
            name,
            tokens: self.tokens,
            users: LOOKED_UP_USERS,
            first_user: 0,
            username: Username::Claim,
            expiry: Expiry::Ahead,
        }
    }

    fn pool(&self, contents: Contents) -> Result<Arc<Pool>> {
        if let Some(pool) = self.pools.borrow().get(contents.name) {
            return Ok(Arc::clone(pool));
        }
        let pool = self.signer.pool(&contents, &self.claims)?;
        self.pools.borrow_mut().insert(contents.name, Arc::clone(&pool));
        Ok(pool)
    }
}
