//! The composition root: makes the parts from the configuration, binds, serves, and stops gracefully.

pub(crate) mod connection;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process,
    time::Duration,
};

use actix_http::{HttpService, Protocol, error::DispatchError};
use actix_service::{ServiceFactoryExt as _, fn_service, map_config};
use actix_web::{App, dev::AppConfig, middleware::from_fn, web::Data};
use arc_swap::ArcSwap;
use tokio::{
    net::TcpStream,
    runtime::Handle,
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinHandle,
};

use self::connection::Connection;

use crate::{
    ably::{Exchange, RestClient, TokenFormat},
    clerk::{BackendApi, InvalidPem, Jwks, JwksSource, SigningKeys, Users, Verifier},
    config::{ClerkConfig, Config, KeySource, TenantConfig},
    identity::Identity,
    issuer::Issuer,
    outgoing,
    reload::Reload,
    routes::{self, cors::AllowedOrigins},
    tenant::{Form, Tenant},
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
    #[error("cannot set up outgoing TLS connections: {}", outgoing::causes(.0))]
    Tls(#[from] reqwest::Error),
    /// The PEM was checked with the configuration, and is none now.
    #[error(transparent)]
    Pem(#[from] InvalidPem),
    /// Signals cannot be received.
    #[error("cannot receive signals: {0}")]
    Signals(io::Error),
}

/// A service that listens, and serves once it is run.
pub struct Server {
    address: SocketAddr,
    http: actix_server::Server,
    issuer: Data<Issuer>,
    background: Vec<JoinHandle<()>>,
}

impl Server {
    const SHUTDOWN_SECONDS: u64 = 20;

    /// Binds the listener and starts to fetch signing keys. Needs a multi-threaded Tokio runtime.
    pub fn bind(config: &Config) -> Result<Self, StartError> {
        let http_client = outgoing::client()?;
        let tenants: Vec<Tenant> = config
            .tenants
            .iter()
            .map(|tenant| make_tenant(tenant, config.revocation.denial_ttl, &http_client))
            .collect::<Result<_, _>>()?;
        let jwks: Vec<Jwks> = tenants.iter().filter_map(|tenant| tenant.signing_keys().jwks().cloned()).collect();
        let issuer = Data::new(Issuer::new(tenants));
        let served = issuer.clone();
        let origins = config.tenants.iter().map(|tenant| (tenant.name(), &tenant.cors.allowed_origins[..]));
        let origins = Data::new(AllowedOrigins::new(origins));

        let address = config.server.address();
        let listener = TcpListener::bind(address).map_err(|error| StartError::Bind { address, error })?;
        let address = listener.local_addr().unwrap_or(address);
        let (stop, stopping) = watch::channel(false);
        let stop_signal = stop_signal(stop).map_err(StartError::Signals)?;
        let http = actix_server::Server::build()
            .shutdown_timeout(Self::SHUTDOWN_SECONDS)
            .shutdown_signal(stop_signal)
            .listen("public", listener, move || {
                let app = App::new()
                    .app_data(served.clone())
                    .app_data(origins.clone())
                    .configure(routes::configure)
                    .wrap(from_fn(routes::guard::around_every_request));
                let http = HttpService::build()
                    .keep_alive(connection::KEEP_ALIVE)
                    .client_request_timeout(connection::TIME_TO_SEND)
                    .on_connect_ext(|connection: &Connection<TcpStream>, data| _ = data.insert(connection.clock()))
                    .finish(map_config(app, |()| AppConfig::default()));
                let stopping = stopping.clone();
                fn_service(move |stream: TcpStream| {
                    let connection = accept(stream, &stopping);
                    async { Ok::<_, DispatchError>(connection) }
                })
                .and_then(http)
            })
            .map_err(|error| StartError::Bind { address, error })?;
        let background = jwks.into_iter().map(|jwks| tokio::spawn(jwks.keep_fresh())).collect();
        Ok(Self { address, http: http.run(), issuer, background })
    }

    /// Lets a changed policy take effect while the service runs. `config` is what it was bound with, and `config_path`
    /// what `--config` names.
    pub fn reload_policy(&mut self, config: Config, config_path: Option<PathBuf>) -> Result<(), StartError> {
        let reload = Reload::new(config_path, config, self.issuer.clone()).map_err(StartError::Signals)?;
        self.background.push(tokio::spawn(reload.watch()));
        Ok(())
    }

    /// Where it listens: the configured address, with the port that was free where 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until SIGTERM or SIGINT, then finishes what is in flight.
    pub async fn run_until_stopped(self) -> io::Result<()> {
        let outcome = self.http.await;
        self.background.iter().for_each(JoinHandle::abort);
        outcome
    }
}

/// The keys of the configured source, not fetched yet.
pub(crate) fn signing_keys(config: &ClerkConfig, http: &reqwest::Client) -> Result<SigningKeys, InvalidPem> {
    let (url, secret_key) = match config.key_source() {
        KeySource::Pem => {
            return SigningKeys::from_pem(config.jwt_key.as_deref().unwrap_or_default());
        }
        KeySource::BackendApi(url) => (url, config.secret_key.clone()),
        KeySource::FrontendApi(url) => (url, None),
    };
    let jwks = Jwks::new(JwksSource { url, secret_key }, http.clone(), Handle::current());
    Ok(SigningKeys::Jwks(jwks))
}

fn make_tenant(config: &TenantConfig, denial_ttl: Duration, http: &reqwest::Client) -> Result<Tenant, StartError> {
    let clerk = &config.clerk;
    let form = match config.token.format {
        TokenFormat::TokenRequest => Form::TokenRequest,
        TokenFormat::Jwt => Form::Jwt,
        TokenFormat::TokenDetails => {
            let rest = RestClient::new(config.ably.rest_url.clone(), http.clone());
            Form::TokenDetails(Exchange::new(rest, Handle::current()))
        }
    };
    Ok(Tenant {
        name: config.name(),
        publishable_key: clerk.publishable_key_here(),
        verifier: verifier(clerk, denial_ttl, http)?,
        identity: Identity::new(config.token.client_id.clone(), users(clerk, http)),
        policy: ArcSwap::from_pointee(config.policy.clone()),
        api_key: config.ably.api_key.clone(),
        form,
    })
}

/// Verifies the session tokens of an instance. Its keys are not fetched yet.
pub(crate) fn verifier(
    clerk: &ClerkConfig,
    denial_ttl: Duration,
    http: &reqwest::Client,
) -> Result<Verifier, StartError> {
    Ok(Verifier::new(signing_keys(clerk, http)?, clerk.session_rules(denial_ttl)))
}

/// The users of an instance, if there is a secret key to ask for them.
pub(crate) fn users(clerk: &ClerkConfig, http: &reqwest::Client) -> Option<Users> {
    let secret_key = clerk.secret_key.clone()?;
    let api = BackendApi::new(clerk.api_url.clone(), secret_key, http.clone());
    Some(Users::new(api, clerk.user_cache_ttl, Handle::current()))
}

fn accept(
    stream: TcpStream,
    stopping: &watch::Receiver<bool>,
) -> (Connection<TcpStream>, Protocol, Option<SocketAddr>) {
    let peer = stream.peer_addr().ok();
    // Answers are short and written whole: there is nothing to wait for.
    let _ = stream.set_nodelay(true);
    (Connection::new(stream, stopping.clone(), routes::bare_refusal), Protocol::Http1, peer)
}

/// Ends with the first SIGTERM or SIGINT, and says so to `stop`; a second one ends the process at once. From its making
/// on the process does not die of them otherwise.
fn stop_signal(stop: watch::Sender<bool>) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "stopping; requests in flight are finished first");
        stop.send_replace(true);
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::warn!("stopped at once, by a second signal");
            process::exit(1);
        });
    })
}
