//! Binds the listeners, serves, and stops gracefully.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    num::NonZeroU32,
    path::PathBuf,
    process,
    rc::Rc,
    sync::Arc,
    thread,
};

use actix_service::{ServiceFactory, fn_factory, fn_service, map_config};
use actix_web::{
    App, Error,
    dev::{AppConfig, ServiceRequest, ServiceResponse},
    web::Data,
};
use tokio::{
    net::{TcpSocket, TcpStream},
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinHandle,
};

use crate::{
    assembly::{self, AssemblyError, Parts},
    clerk::Jwks,
    clock::UnixMillis,
    config::{Config, TomlFile},
    connection::{self, Listener},
    detached::Detached,
    issuer::Issuer,
    limits::{self, ConnectionTable, InFlightLimit, Room},
    reload::Reload,
    routes::{self, ActixHandler, Middleware, access::Access, revocations::OperatorRequests, webhooks::Webhooks},
    store::{Store, StoreStats},
    telemetry::{
        self,
        metrics::{ConnectionMetrics, ReloadMetrics},
    },
    tenant::Tenant,
};

/// Why the service does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The public listener's address is not available.
    #[error("cannot listen on {address}: {error}; choose another with SERVER_HOST and SERVER_PORT")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The admin listener's address is not available.
    #[error(
        "cannot listen on {address} for the admin listener: {error}; choose another with ADMIN_HOST and ADMIN_PORT, or \
         turn it off with ADMIN_PORT=0"
    )]
    BindAdmin {
        /// The address.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// A part cannot be made.
    #[error(transparent)]
    Assembly(#[from] AssemblyError),
    /// Signals cannot be received.
    #[error("cannot receive signals: {0}")]
    Signals(io::Error),
}

/// A service that is bound and not running yet.
pub struct Server {
    address: SocketAddr,
    admin_address: Option<SocketAddr>,
    http: actix_server::Server,
    issuer: Data<Issuer>,
    reload_metrics: ReloadMetrics,
    background: Vec<JoinHandle<()>>,
}

impl Server {
    const SHUTDOWN_SECONDS: u64 = 20;

    /// The admin listener's own connections: clients of the public listener cannot use them up.
    const ADMIN_ROOM: Room = Room { connections: 100, queue: 100 };

    /// Binds the listeners and starts to fetch signing keys. Needs a multi-threaded Tokio runtime.
    pub fn bind(config: &Config) -> Result<Self, StartError> {
        let Parts { tenants, issuer, revocation, metrics } = assembly::assemble(config)?;
        let jwks: Vec<Jwks> =
            tenants.iter().map(Tenant::signing_keys).filter_map(|keys| keys.jwks().cloned()).collect();
        let detached = Detached::on_current_runtime();
        let webhooks = Data::new(Webhooks::new(Arc::clone(&tenants), Arc::clone(&revocation), detached.clone()));
        let access = Data::new(Access::to(config.admin.address, config.admin.token.clone()));
        let operator = Data::new(OperatorRequests { revocation: Arc::clone(&revocation), detached });
        let (issuer, metrics, tenants) = (Data::new(issuer), Data::new(metrics), Data::from(tenants));
        let in_flight = Data::new(InFlightLimit::new(config.limits.max_in_flight));

        let address = config.server.address;
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
            // The connection tables limit them.
            .max_concurrent_connections(usize::MAX)
            .shutdown_signal(stop_signal)
            .listen("public", listener, {
                let (issuer, stopping) = (issuer.clone(), stopping.clone());
                let webhooks = webhooks.clone();
                let table =
                    ConnectionTable::new("public", public_room(config.limits.connections), metrics.connections());
                let middleware = Middleware {
                    metrics: Some(metrics.requests()),
                    tenants: Some(Arc::clone(&tenants)),
                    trusted_proxies: Some(Arc::new(config.server.trusted_proxies.clone())),
                };
                move || {
                    let app = App::new()
                        .app_data(issuer.clone())
                        .app_data(webhooks.clone())
                        .app_data(tenants.clone())
                        .app_data(in_flight.clone())
                        .configure(routes::configure_public);
                    over_connections(app, middleware.clone(), Arc::clone(&table), stopping.clone())
                }
            })
            .map_err(|error| StartError::Bind { address, error })?;
        let admin_address = admin.as_ref().map(|(address, _)| *address);
        if let Some((address, listener)) = admin {
            let (issuer, metrics) = (issuer.clone(), metrics.clone());
            let table = ConnectionTable::new("admin", Self::ADMIN_ROOM, ConnectionMetrics::default());
            http = http
                .listen("admin", listener, move || {
                    let app = App::new()
                        .app_data(issuer.clone())
                        .app_data(metrics.clone())
                        .app_data(operator.clone())
                        .app_data(access.clone())
                        .configure(routes::configure_admin);
                    over_connections(app, Middleware::default(), Arc::clone(&table), stopping.clone())
                })
                .map_err(|error| StartError::BindAdmin { address, error })?;
        }
        let mut background: Vec<_> = jwks.into_iter().map(|jwks| tokio::spawn(jwks.keep_fresh())).collect();
        background.push(tokio::spawn(revocation.perform_tasks(Arc::new(UnixMillis::now))));
        Ok(Self { address, admin_address, http: http.run(), issuer, reload_metrics: metrics.reloads(), background })
    }

    /// Reloads the policy when it changes. `config` is what the service was bound with, `config_path` the value of
    /// `--config`, and `file` what was read there.
    pub fn reload_policy(
        &mut self,
        config: Config,
        config_path: Option<PathBuf>,
        file: TomlFile,
    ) -> Result<(), StartError> {
        let reload = Reload::new(config_path, file, config, self.issuer.clone(), self.reload_metrics.clone());
        let reload = reload.map_err(StartError::Signals)?;
        self.background.push(tokio::spawn(reload.watch()));
        Ok(())
    }

    /// The address of the public listener, with the actual port where 0 was configured.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of the admin listener. None: it is off.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// Serves until SIGTERM or SIGINT, then finishes the requests in flight.
    pub async fn run_until_stopped(self) -> io::Result<()> {
        let outcome = self.http.await;
        self.background.iter().for_each(JoinHandle::abort);
        warn_of_lost_work(self.issuer.store());
        outcome
    }
}

/// Warns of work that ends with this process because no other replica has it.
fn warn_of_lost_work(store: &Store) {
    let StoreStats { tasks, unrecorded_restrictions, unrecorded_tasks, .. } = store.stats(UnixMillis::now());
    if store.is_shared() {
        if unrecorded_restrictions > 0 || unrecorded_tasks > 0 {
            tracing::warn!(
                restrictions = unrecorded_restrictions,
                tasks = unrecorded_tasks,
                "restrictions and revocation tasks that are not in Redis are lost with this process"
            );
        }
    } else if tasks.count > 0 {
        tracing::warn!(
            tasks = tasks.count,
            "revocation tasks are lost with this process: tokens of token requests that were signed just before a denial \
             live until they expire. With REDIS_URL another replica, or the next start, does these tasks"
        );
    }
}

/// The app behind the connections of a listener.
fn over_connections(
    app: App<
        impl ServiceFactory<ServiceRequest, Config = (), Response = ServiceResponse, Error = Error, InitError = ()>
        + 'static,
    >,
    middleware: Middleware,
    table: Arc<ConnectionTable>,
    stopping: watch::Receiver<bool>,
) -> impl ServiceFactory<TcpStream, Config = (), Response = (), Error = (), InitError = ()> {
    let app = map_config(app, |()| AppConfig::default());
    fn_factory(move || {
        let (middleware, table, stopping) = (middleware.clone(), Arc::clone(&table), stopping.clone());
        let app = app.new_service(());
        async move {
            let handler = Rc::new(ActixHandler::new(app.await?, middleware));
            let listener = Rc::new(Listener { handler, stopping });
            Ok(fn_service(move |stream: TcpStream| {
                let (table, listener) = (Arc::clone(&table), Rc::clone(&listener));
                async move {
                    if let Some(slot) = table.admit().await {
                        let peer = stream.peer_addr().ok();
                        // Answers are short and written whole.
                        let _ = stream.set_nodelay(true);
                        connection::serve(stream, peer, slot, listener).await;
                    }
                    Ok::<_, ()>(())
                }
            }))
        }
    })
}

/// Binds a listener whose accept queue is long enough for a burst.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    const BACKLOG: u32 = 1024;
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // As the standard library does, so that a restart need not wait for the connections of the last run.
    socket.set_reuseaddr(true)?;
    if address.is_ipv6() {
        // `::` means both families, whatever the system's default.
        rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

/// The connections of the public listener: as many as configured, if the process may open so many files.
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

/// The signals that stop the service: SIGTERM and SIGINT.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Listens on the current runtime.
    fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The name of the next one.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Keeps a stop from waiting for an output that takes nothing. On a thread of its own: all others may wait for the log.
fn stop_waiting_at_signal() -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    let mut signals = {
        let _entered = runtime.enter();
        StopSignals::listen()?
    };
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(signals.next());
        telemetry::stop_waiting();
    })?;
    Ok(())
}

/// A future that ends with the first signal, which it reports to `stop`. A second signal ends the process at once.
fn stop_signal(stop: watch::Sender<bool>) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    stop_waiting_at_signal()?;
    let mut signals = StopSignals::listen()?;
    Ok(async move {
        let name = signals.next().await;
        tracing::info!(signal = name, "stopping after the requests in flight");
        stop.send_replace(true);
        tokio::spawn(async move {
            signals.next().await;
            tracing::warn!("stopped at once by a second signal");
            telemetry::flush();
            process::exit(1);
        });
    })
}
