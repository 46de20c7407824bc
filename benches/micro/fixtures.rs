//! A Clerk instance, the service without HTTP, and requests of a user's browser. The instruction count uses them too.

use std::{
    borrow::Cow,
    env,
    error::Error,
    io,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use ably_clerk_auth::{
    ably::Nonce,
    assembly,
    clock::UnixMillis,
    config::{Config, Sources},
    issuer::{IncomingRequest, IssuedToken, Issuer, SigningContext, Token},
    limits::InFlightLimit,
};
use sandbox::clerk::{Clerk, Options};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::runtime::Runtime;

/// Signs session tokens.
pub(crate) struct Instance {
    pub(crate) clerk: Clerk,
    /// The number of users that have a token.
    users: AtomicUsize,
    _runtime: Runtime,
}

/// The parts of a request that matter to the issuer.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Request {
    authorization: Vec<Cow<'static, str>>,
    cookies: String,
}

/// The issuer of a service with one tenant.
pub(crate) struct Service {
    issuer: Issuer,
    in_flight: InFlightLimit,
    runtime: Runtime,
}

impl Instance {
    pub(crate) fn start() -> io::Result<Self> {
        let runtime = Runtime::new()?;
        let clerk = runtime.block_on(Clerk::start(Options { kid: "ins_2benches".into(), ..Options::default() }))?;
        Ok(Self { clerk, users: AtomicUsize::new(0), _runtime: runtime })
    }

    /// The settings of a service for this instance, with `policy`: `[[grants]]` in TOML.
    pub(crate) fn settings(&self, policy: &str) -> String {
        let (publishable_key, jwt_key) = (self.clerk.publishable_key(), self.clerk.jwt_key());
        format!(
            "[ably]\napi_key = \"bench0.key000:0123456789abcdef0123456789abcdef\"\n\
             [clerk]\npublishable_key = \"{publishable_key}\"\njwt_key = \"\"\"{jwt_key}\"\"\"\n\
             authorized_parties = [\"http://localhost:3000\"]\n{policy}"
        )
    }

    /// A session token of a new user, with a username and metadata.
    pub(crate) fn session_token(&self) -> String {
        let user = self.users.fetch_add(1, Ordering::Relaxed);
        let mut claims = self.clerk.session_claims(&format!("user_2bench{user:022}"));
        claims["username"] = json!(format!("user{user:06}"));
        claims["metadata"] = json!({ "tier": "pro", "team": "7" });
        self.clerk.mint(claims)
    }

    /// A page's request to another host name.
    pub(crate) fn request_with_header(&self) -> Request {
        Request { authorization: vec![format!("Bearer {}", self.session_token()).into()], cookies: String::new() }
    }

    /// A page's request to its own host name. clerk-js sets each cookie with and without the suffix.
    pub(crate) fn request_with_cookies(&self) -> Request {
        let (token, suffix) = (self.session_token(), self.clerk.cookie_suffix());
        let cookies = format!(
            "theme=dark; __clerk_db_jwt_{suffix}=dvb_2bench; __clerk_db_jwt=dvb_2bench; __client_uat_{suffix}=1; \
             __client_uat=1; __session_{suffix}={token}; __session={token}"
        );
        Request { authorization: Vec::new(), cookies }
    }
}

impl Service {
    /// A service with these settings. Variables of the environment take precedence, as in production.
    pub(crate) fn new(settings: &str) -> Result<Self, Box<dyn Error>> {
        let runtime = Runtime::new()?;
        let config = load(settings)?;
        let in_flight = InFlightLimit::new(config.limits.max_in_flight);
        let issuer = runtime.block_on(async { assembly::assemble(&config) })?.issuer;
        Ok(Self { issuer, in_flight, runtime })
    }

    /// Answers a token request as `/api/ably` does, from its headers to the JSON. Panics if it is refused.
    pub(crate) fn answer(&self, request: &Request, now: UnixMillis) -> Vec<u8> {
        self.runtime.block_on(self.issue(request, now))
    }

    async fn issue(&self, request: &Request, now: UnixMillis) -> Vec<u8> {
        let Some(mut permit) = self.in_flight.acquire() else { panic!("another request is in progress") };
        let incoming = IncomingRequest {
            authorization: &request.authorization,
            cookies: &request.cookies,
            accepts_cookies: &|_| true,
        };
        let context = || Ok(SigningContext { timestamp: now, nonce: Nonce::random()? });
        let result = match self.issuer.verify(incoming, &mut permit, now).await {
            Ok(caller) => self.issuer.issue(caller, b"", now, &context).await.result,
            Err(refusal) => Err(refusal),
        };
        match result {
            Ok(IssuedToken { token: Token::Request(token_request), .. }) => {
                serde_json::to_vec(&token_request).unwrap_or_default()
            }
            Ok(_) => panic!("the settings ask for token requests"),
            Err(refusal) => panic!("{refusal}"),
        }
    }
}

/// Loads settings where no `.env` can change them.
fn load(settings: &str) -> Result<Config, Box<dyn Error>> {
    let here = env::current_dir()?;
    env::set_current_dir("/")?;
    let config = Config::load(&Sources::with_file(Some(Path::new("benches")), &Ok(settings.to_owned())));
    env::set_current_dir(here)?;
    Ok(config.map_err(|problems| problems.to_string())?.0)
}
