//! The composition root: makes the parts from the configuration, binds, serves, and stops gracefully.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use actix_web::{App, HttpServer, dev, web::Data};
use tokio::{
    runtime::Handle,
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
};

use crate::{
    clerk::{BackendApi, Jwks, JwksSource, SessionRules, SigningKeys, Users, Verifier},
    clock,
    config::{ClerkConfig, Config, KeySource},
    identity::Identity,
    issuer::Issuer,
    policy::Policy,
    routes::{self, cors::AllowedOrigins},
};

/// Why the service does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is not to be had.
    #[error("cannot listen on {address}: {error}; choose another with SERVER_HOST and SERVER_PORT")]
    Bind {
        /// Which address.
        address: SocketAddr,
        /// Why not.
        error: io::Error,
    },
    /// There is no way to make outgoing connections.
    #[error("cannot set up outgoing TLS connections: {0}")]
    Tls(#[from] reqwest::Error),
    /// The PEM was checked with the configuration, and is none now.
    #[error(transparent)]
    Pem(#[from] crate::clerk::InvalidPem),
    /// Signals cannot be received.
    #[error("cannot receive signals: {0}")]
    Signals(io::Error),
}

/// A service that listens, and serves once it is run.
pub struct Server {
    address: SocketAddr,
    http: dev::Server,
    background: Option<JoinHandle<()>>,
}

impl Server {
    const SHUTDOWN_SECONDS: u64 = 20;
    /// Longer than a load balancer's usual minute, so that it is the one to close a connection.
    const KEEP_ALIVE: Duration = Duration::from_secs(75);

    /// Binds the listener and starts to fetch signing keys. Needs a multi-threaded Tokio runtime.
    pub fn bind(config: &Config) -> Result<Self, StartError> {
        let http_client = http_client()?;
        let (keys, jwks) = signing_keys(&config.clerk, &http_client)?;
        let issuer = Data::new(issuer(config, keys, &http_client));
        let origins = Data::from(Arc::new(AllowedOrigins::new(&config.cors.allowed_origins)));

        let address = config.server.address();
        let stop = stop_signal().map_err(StartError::Signals)?;
        let server = HttpServer::new(move || {
            App::new()
                .app_data(issuer.clone())
                .app_data(origins.clone())
                .configure(routes::configure)
                .wrap(actix_web::middleware::from_fn(routes::guard::around_every_request))
        })
        .keep_alive(Self::KEEP_ALIVE)
        .client_request_timeout(routes::guard::TIME_TO_SEND)
        .shutdown_timeout(Self::SHUTDOWN_SECONDS)
        .shutdown_signal(stop)
        .bind(address)
        .map_err(|error| StartError::Bind { address, error })?;
        let address = server.addrs().first().copied().unwrap_or(address);
        let background = jwks.map(|jwks| tokio::spawn(jwks.keep_fresh()));
        Ok(Self { address, http: server.run(), background })
    }

    /// Where it listens: the configured address, with the port that was free where 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until SIGTERM or SIGINT, then finishes what is in flight.
    pub async fn run_until_stopped(self) -> io::Result<()> {
        let outcome = self.http.await;
        if let Some(background) = self.background {
            background.abort();
        }
        outcome
    }
}

/// The client for all outgoing calls. It follows no redirect: every address comes from the configuration.
pub fn http_client() -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// The keys of the configured source, and what is to be kept fresh of them.
pub fn signing_keys(
    config: &ClerkConfig,
    http: &reqwest::Client,
) -> Result<(SigningKeys, Option<Jwks>), crate::clerk::InvalidPem> {
    let (url, secret_key) = match config.key_source() {
        KeySource::Pem => {
            let keys = SigningKeys::from_pem(config.jwt_key.as_deref().unwrap_or_default())?;
            return Ok((keys, None));
        }
        KeySource::BackendApi(url) => (url, config.secret_key.clone()),
        KeySource::FrontendApi(url) => (url, None),
    };
    let jwks = Jwks::new(JwksSource { url, secret_key }, http.clone(), Handle::current());
    Ok((SigningKeys::Jwks(jwks.clone()), Some(jwks)))
}

fn issuer(config: &Config, keys: SigningKeys, http: &reqwest::Client) -> Issuer {
    let clerk = &config.clerk;
    let rules = SessionRules {
        issuers: clerk.issuers(),
        authorized_parties: clerk.authorized_parties.clone(),
        audience: clerk.audience.clone(),
        clock_skew_ms: clerk.clock_skew_ms,
        longest_life_ms: clock::millis(config.revocation.denial_ttl),
    };
    let users = clerk.secret_key.clone().map(|secret_key| {
        let api = BackendApi::new(clerk.api_url.clone(), secret_key, http.clone());
        Users::new(api, clerk.user_cache_ttl, Handle::current())
    });
    Issuer::new(
        clerk.publishable_key.clone(),
        Verifier::new(keys, rules),
        Identity::new(config.token.client_id.clone(), users),
        Policy { ttl: config.token.ttl },
        config.ably.api_key.clone(),
    )
}

/// Ends with the first SIGTERM or SIGINT. From its making on the process does not die of them by default.
fn stop_signal() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "stopping; requests in flight are finished first");
    })
}
