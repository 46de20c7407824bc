//! The composition root: makes the parts from the configuration, binds, serves, and stops gracefully.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    num::NonZeroU32,
    path::PathBuf,
    process,
    rc::Rc,
    sync::{Arc, OnceLock},
    time::Duration,
};

use actix_service::{ServiceFactory, fn_factory, fn_service, map_config};
use actix_web::{
    App, Error,
    dev::{AppConfig, ServiceRequest, ServiceResponse},
    middleware::from_fn,
    web::Data,
};
use arc_swap::ArcSwap;
use tokio::{
    net::{TcpSocket, TcpStream},
    runtime::Handle,
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinHandle,
};

use crate::{
    ably::{Exchange, RestClient, TokenFormat},
    clerk::{
        BackendApi, InvalidPem, InvalidSigningSecret, Jwks, JwksSource, LookupCounts, RefreshCounts, SigningKeys,
        Users, Verifier,
    },
    clock::UnixMillis,
    config::{ClerkConfig, Config, KeySource, TenantConfig, TomlFile},
    connection::{self, Listener},
    identity::Identity,
    issuer::Issuer,
    limits::{self, ConnectionTable, InFlightLimit, Room, TokenLimit},
    outgoing,
    reload::Reload,
    revocation::{self, Authority, Revocation, RevocationQueue, RevokingKey},
    routes::{
        self, UnparsedRequests,
        cors::AllowedOrigins,
        revocations::{Access, OperatorRequests},
        webhooks::{Receiver, Webhooks},
    },
    store::{
        Forgotten, InvalidRedisAddress, MemoryStore, OnForget, RedisStore, Store, StoreCollector, StoreLimits,
        StoreStats,
    },
    telemetry::metrics::{ConnectionMetrics, Metrics, TenantMetrics},
    tenant::{Signing, Tenant, TenantName},
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
    /// The admin listener's address is not to be had.
    #[error(
        "cannot listen on {address} for the admin listener: {error}; choose another with ADMIN_HOST and ADMIN_PORT, or \
         have none with ADMIN_PORT=0"
    )]
    BindAdmin {
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
    /// The secrets were checked with the configuration, and are none now.
    #[error(transparent)]
    SigningSecret(#[from] InvalidSigningSecret),
    /// The address was checked with the configuration, and is none now.
    #[error("Redis cannot be used: {0}")]
    Redis(#[from] InvalidRedisAddress),
    /// Signals cannot be received.
    #[error("cannot receive signals: {0}")]
    Signals(io::Error),
}

/// A service that listens, and serves once it is run.
pub struct Server {
    address: SocketAddr,
    admin_address: Option<SocketAddr>,
    http: actix_server::Server,
    issuer: Data<Issuer>,
    metrics: Metrics,
    background: Vec<JoinHandle<()>>,
}

impl Server {
    const SHUTDOWN_SECONDS: u64 = 20;

    /// The room for connections of the admin listener. The public one has none of it, so strangers cannot use it up.
    const ADMIN_ROOM: Room = Room { connections: 100, queue: 100 };

    /// Binds the listeners and starts to fetch signing keys. Needs a multi-threaded Tokio runtime.
    pub fn bind(config: &Config) -> Result<Self, StartError> {
        let http_client = outgoing::client()?;
        let remembered = Arc::new(RememberedUsers::default());
        let store = make_store(config, &remembered)?;
        let collector = StoreCollector { store: Arc::clone(&store), clock: Arc::new(UnixMillis::now) };
        let metrics = Metrics::new(UnixMillis::now(), vec![Box::new(collector)]);
        let make_tenant = |tenant: &TenantConfig| {
            let metrics = metrics.tenant(tenant.name().as_str());
            make_tenant(tenant, config.revocation.denial_ttl, &http_client, metrics)
        };
        let tenants: Vec<Tenant> = config.tenants.iter().map(make_tenant).collect::<Result<_, _>>()?;
        let jwks: Vec<Jwks> = tenants.iter().filter_map(|tenant| tenant.signing_keys().jwks().cloned()).collect();
        remembered.set(&tenants);
        let authorities = config.tenants.iter().zip(&tenants).map(|(config_of_tenant, tenant)| {
            authority(config_of_tenant, tenant, config.revocation.denial_ttl, &http_client)
        });
        let revocation = Arc::new(Revocation::new(Arc::clone(&store), authorities.collect(), UnixMillis::now()));
        let receivers =
            config.tenants.iter().zip(&tenants).filter_map(|(config, tenant)| receiver(config, tenant).transpose());
        let receivers = receivers.collect::<Result<_, _>>()?;
        let webhooks = Data::new(Webhooks::new(receivers, Arc::clone(&revocation), Handle::current()));
        let access = Access::to(config.admin.address, config.admin.token.clone());
        let operator =
            Data::new(OperatorRequests { revocation: Arc::clone(&revocation), runtime: Handle::current(), access });
        let of_nobody = match &tenants[..] {
            [only] => only.metrics.clone(),
            _ => metrics.tenant(Metrics::OF_NOBODY),
        };
        let issuer = Data::new(Issuer::new(tenants, store, config.limits.tokens.map(TokenLimit::new), of_nobody));
        let in_flight = Data::new(InFlightLimit::new(config.limits.max_in_flight));
        let trusted_proxies = Data::new(config.server.trusted_proxies.clone());
        let origins = config.tenants.iter().map(|tenant| (tenant.name(), &tenant.cors.allowed_origins[..]));
        let origins = Data::new(AllowedOrigins::new(origins));

        let address = config.server.address();
        let listener = listen(address).map_err(|error| StartError::Bind { address, error })?;
        let address = listener.local_addr().unwrap_or(address);
        let admin = match config.admin.address {
            Some(address) => {
                let bound = listen(address).map_err(|error| StartError::BindAdmin { address, error })?;
                Some((address, bound))
            }
            None => None,
        };
        let (stop, stopping) = watch::channel(false);
        let stop_signal = stop_signal(stop).map_err(StartError::Signals)?;
        let mut http = actix_server::Server::build()
            .shutdown_timeout(Self::SHUTDOWN_SECONDS)
            // The tables of connections are the limits.
            .max_concurrent_connections(usize::MAX)
            .shutdown_signal(stop_signal)
            .listen("public", listener, {
                let (issuer, requests, stopping) = (issuer.clone(), Data::new(metrics.requests()), stopping.clone());
                let webhooks = webhooks.clone();
                let table =
                    ConnectionTable::new("public", public_room(config.limits.connections), metrics.connections());
                let unparsed = UnparsedRequests { metrics: Some(metrics.requests()), origins: Some(origins.clone()) };
                move || {
                    let app = App::new()
                        .app_data(issuer.clone())
                        .app_data(requests.clone())
                        .app_data(webhooks.clone())
                        .app_data(origins.clone())
                        .app_data(in_flight.clone())
                        .app_data(trusted_proxies.clone())
                        .configure(routes::configure_public)
                        .wrap(from_fn(routes::guard::around_every_request));
                    over_connections(app, Arc::clone(&table), unparsed.clone(), stopping.clone())
                }
            })
            .map_err(|error| StartError::Bind { address, error })?;
        let admin_address = admin.as_ref().map(|(address, _)| *address);
        if let Some((address, listener)) = admin {
            let (issuer, metrics) = (issuer.clone(), Data::new(metrics.clone()));
            let table = ConnectionTable::new("admin", Self::ADMIN_ROOM, ConnectionMetrics::default());
            http = http
                .listen("admin", listener, move || {
                    let app = App::new()
                        .app_data(issuer.clone())
                        .app_data(metrics.clone())
                        .app_data(operator.clone())
                        .configure(routes::configure_admin)
                        .wrap(from_fn(routes::guard::around_every_request));
                    over_connections(app, Arc::clone(&table), UnparsedRequests::default(), stopping.clone())
                })
                .map_err(|error| StartError::BindAdmin { address, error })?;
        }
        let mut background: Vec<_> = jwks.into_iter().map(|jwks| tokio::spawn(jwks.keep_fresh())).collect();
        background.push(tokio::spawn(revocation.work()));
        Ok(Self { address, admin_address, http: http.run(), issuer, metrics, background })
    }

    /// Lets a changed policy take effect while the service runs. `config` is what it was bound with, and `config_path`
    /// what `--config` names, and `file` what was read there.
    pub fn reload_policy(
        &mut self,
        config: Config,
        config_path: Option<PathBuf>,
        file: TomlFile,
    ) -> Result<(), StartError> {
        let reload = Reload::new(config_path, file, config, self.issuer.clone(), self.metrics.reloads());
        let reload = reload.map_err(StartError::Signals)?;
        self.background.push(tokio::spawn(reload.watch()));
        Ok(())
    }

    /// Where it listens: the configured address, with the port that was free where 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the admin listener is, unless it is off.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// Serves until SIGTERM or SIGINT, then finishes what is in flight.
    pub async fn run_until_stopped(self) -> io::Result<()> {
        let outcome = self.http.await;
        self.background.iter().for_each(JoinHandle::abort);
        warn_of_lost_work(self.issuer.store());
        outcome
    }
}

/// Says what ends with this process, where nobody else goes on with it.
fn warn_of_lost_work(store: &dyn Store) {
    let StoreStats { tasks, unwritten_restrictions, unwritten_tasks, .. } = store.stats(UnixMillis::now());
    if store.is_shared() {
        if unwritten_restrictions > 0 || unwritten_tasks > 0 {
            tracing::warn!(
                restrictions = unwritten_restrictions,
                pieces = unwritten_tasks,
                "what Redis could not be given ends with this process: denials, marks and their ends that Clerk does not \
                 tell of again, or that were made by hand, and what was still to be sent to Ably"
            );
        }
    } else if tasks.count > 0 {
        tracing::warn!(
            pieces = tasks.count,
            "what was still to be sent to Ably ends with this process: tokens of token requests that were signed just \
             before a denial are not revoked, and live until they end. With REDIS_URL another replica sends it, or the \
             next start"
        );
    }
}

/// The keys of the configured source, not fetched yet.
pub(crate) fn signing_keys(
    config: &ClerkConfig,
    http: &reqwest::Client,
    counts: impl FnOnce() -> RefreshCounts,
) -> Result<SigningKeys, InvalidPem> {
    let (url, secret_key) = match config.key_source() {
        KeySource::Pem => {
            return SigningKeys::from_pem(config.jwt_key.as_deref().unwrap_or_default());
        }
        KeySource::BackendApi(url) => (url, config.secret_key.clone()),
        KeySource::FrontendApi(url) => (url, None),
    };
    let jwks = Jwks::new(JwksSource { url, secret_key }, http.clone(), Handle::current(), counts());
    Ok(SigningKeys::Jwks(jwks))
}

fn make_tenant(
    config: &TenantConfig,
    denial_ttl: Duration,
    http: &reqwest::Client,
    metrics: TenantMetrics,
) -> Result<Tenant, StartError> {
    let clerk = &config.clerk;
    metrics.policy_in_force(config.policy.rules.len());
    let signing = match config.token.format {
        TokenFormat::TokenRequest => Signing::TokenRequest,
        TokenFormat::Jwt => Signing::Jwt,
        TokenFormat::TokenDetails => {
            let rest = RestClient::new(config.ably.rest_url.clone(), http.clone()).observed_by(metrics.ably_clock());
            Signing::TokenDetails(Exchange::new(rest, Handle::current(), metrics.ably_exchanges()))
        }
    };
    Ok(Tenant {
        name: config.name(),
        publishable_key: clerk.publishable_key_here(),
        verifier: verifier(clerk, denial_ttl, http, || metrics.signing_key_refreshes())?,
        identity: Identity::new(config.token.client_id.clone(), users(clerk, http, metrics.user_lookups())),
        policy: ArcSwap::from_pointee(config.policy.clone()),
        api_key: config.ably.api_key.clone(),
        signing,
        signed_out: config.token.signed_out,
        revocable: config.ably.revocable_tokens,
        metrics,
    })
}

/// The users that tenants remember, for a store that is made before they are.
#[derive(Debug, Default)]
struct RememberedUsers(OnceLock<Vec<(TenantName, Users)>>);

impl RememberedUsers {
    fn set(&self, tenants: &[Tenant]) {
        let users = tenants.iter().filter_map(|tenant| Some((tenant.name.clone(), tenant.identity.users()?.clone())));
        // It is called once.
        let _ = self.0.set(users.collect());
    }

    fn forget(&self, dropped: Forgotten<'_>) {
        for (name, users) in self.0.get().into_iter().flatten() {
            match dropped {
                Forgotten::User(tenant, user) if tenant == name => users.forget(user),
                Forgotten::User(..) => {}
                Forgotten::Everyone => users.forget_all(),
            }
        }
    }
}

fn make_store(config: &Config, remembered: &Arc<RememberedUsers>) -> Result<Arc<dyn Store>, StartError> {
    let remembered = Arc::clone(remembered);
    let on_forget: OnForget = Arc::new(move |dropped| remembered.forget(dropped));
    let Some(redis) = &config.redis else { return Ok(Arc::new(MemoryStore::new(&StoreLimits::default(), on_forget))) };
    let clock = Arc::new(UnixMillis::now);
    let store =
        RedisStore::start(&redis.address, &redis.prefix, redis.on_failure, &StoreLimits::default(), clock, on_forget)?;
    Ok(Arc::new(store))
}

fn authority(config: &TenantConfig, tenant: &Tenant, denial_ttl: Duration, http: &reqwest::Client) -> Authority {
    // Series that exist from the start, whether or not tokens can be revoked.
    let counts = tenant.metrics.revocations();
    let ably = config.ably.revocable_tokens.then(|| {
        let rest = RestClient::new(config.ably.rest_url.clone(), http.clone()).observed_by(tenant.metrics.ably_clock());
        let key = RevokingKey { rest, api_key: config.ably.api_key.clone() };
        RevocationQueue::new(tenant.name.clone(), key, counts)
    });
    Authority {
        tenant: tenant.name.clone(),
        denial: revocation::denial(denial_ttl, config.clerk.clock_skew_ms),
        format: config.token.format,
        client_id: config.token.client_id.clone(),
        users: tenant.identity.users().cloned(),
        ably,
    }
}

fn receiver(config: &TenantConfig, tenant: &Tenant) -> Result<Option<Arc<Receiver>>, StartError> {
    let secrets = config.clerk.signing_secrets()?;
    let receiver = |secrets| Receiver { tenant: tenant.name.clone(), secrets, metrics: tenant.metrics.clone() };
    Ok(secrets.map(receiver).map(Arc::new))
}

/// Verifies the session tokens of an instance. Its keys are not fetched yet. `counts` are made when they are to be.
pub(crate) fn verifier(
    clerk: &ClerkConfig,
    denial_ttl: Duration,
    http: &reqwest::Client,
    counts: impl FnOnce() -> RefreshCounts,
) -> Result<Verifier, StartError> {
    Ok(Verifier::new(signing_keys(clerk, http, counts)?, clerk.session_rules(denial_ttl)))
}

/// The users of an instance, if there is a secret key to ask for them.
pub(crate) fn users(clerk: &ClerkConfig, http: &reqwest::Client, counts: LookupCounts) -> Option<Users> {
    let secret_key = clerk.secret_key.clone()?;
    let api = BackendApi::new(clerk.api_url.clone(), secret_key, http.clone());
    Some(Users::new(api, clerk.user_cache_ttl, Handle::current(), counts))
}

/// An app behind the connections of a listener.
fn over_connections(
    app: App<
        impl ServiceFactory<ServiceRequest, Config = (), Response = ServiceResponse, Error = Error, InitError = ()>
        + 'static,
    >,
    table: Arc<ConnectionTable>,
    unparsed: UnparsedRequests,
    stopping: watch::Receiver<bool>,
) -> impl ServiceFactory<TcpStream, Config = (), Response = (), Error = (), InitError = ()> {
    let app = map_config(app, |()| AppConfig::default());
    fn_factory(move || {
        let (table, unparsed, stopping) = (Arc::clone(&table), unparsed.clone(), stopping.clone());
        let app = app.new_service(());
        async move {
            let refuse = move |status, head: &[u8], peer| unparsed.refuse(status, head, peer);
            let listener = Rc::new(Listener { app: app.await?, refuse: Box::new(refuse), stopping });
            Ok(fn_service(move |stream: TcpStream| {
                let (table, listener) = (Arc::clone(&table), Rc::clone(&listener));
                async move {
                    if let Some(slot) = table.admit().await {
                        let peer = stream.peer_addr().ok();
                        // Answers are short and written whole: there is nothing to wait for.
                        let _ = stream.set_nodelay(true);
                        connection::serve(stream, peer, slot, listener).await;
                    }
                    Ok::<_, ()>(())
                }
            }))
        }
    })
}

/// Binds a listener whose queue of new connections is long enough for a burst.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    const BACKLOG: u32 = 1024;
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // As the standard library does: a restart must not wait for the connections of the last run.
    socket.set_reuseaddr(true)?;
    if address.is_ipv6() {
        // `::` is all addresses of both families, whatever the system's default.
        rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

/// The room for connections of the public listener: as many as configured, if the process may open so many files.
fn public_room(configured: NonZeroU32) -> Room {
    let configured = u64::from(configured.get());
    let room = limits::make_room(configured);
    if room.connections < configured {
        tracing::warn!(
            configured,
            connections = room.connections,
            "the limit on open files is too small for LIMITS_CONNECTIONS ([limits] connections); keeping fewer \
             connections. Raise it, for example with `ulimit -n` or `--ulimit nofile`"
        );
    }
    room
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
