//! `sandbox dev`: the service between both stand-ins, and the page, until it is stopped.
//!
//! All servers listen on loopback, all keys are generated, and the service ends with this process.

mod app;
mod explain;
mod live_keys;
mod log;
mod page;
mod policy;
mod port;
mod ready;
mod service;

use std::env;
use std::fmt::Display;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use clap::Args;
use sandbox::ably::{self, Ably};
use sandbox::clerk::{self, Clerk};
use sandbox::loopback;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use app::AppSettings;
use explain::Explainer;
use log::Output;
use page::{Editor, Page};
use policy::PolicyFile;
use port::ReservedPort;
use ready::Ready;
use service::{Exit, Program, Service};

pub(crate) use service::TiedToParent;

/// The host name in the publishable key. Nothing is there: pages need the proxy URL. clerk-js treats an instance as one
/// for development only below `.accounts.dev`.
const FRONTEND_API: &str = "the-sandbox.clerk.accounts.dev";

#[derive(Args)]
pub(crate) struct DevOptions {
    /// The service's executable [default: `ably-clerk-auth` beside this one]
    #[arg(long, value_name = "PATH")]
    service: Option<PathBuf>,
    /// Port of the page; 0 takes any free one, here and below
    #[arg(long, value_name = "PORT", default_value_t = 3000)]
    page_port: u16,
    /// Port of the service
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    service_port: u16,
    /// Port of the Clerk stand-in
    #[arg(long, value_name = "PORT", default_value_t = 3001)]
    clerk_port: u16,
    /// Port of the Ably stand-in
    #[arg(long, value_name = "PORT", default_value_t = 3002)]
    ably_port: u16,
    /// The configuration file that the service starts with, instead of the sandbox's policy. The sandbox copies it,
    /// and the page changes only the copy
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Print one line of JSON when ready instead of text, and stop when standard input closes
    #[arg(long)]
    json: bool,
    /// The origin of your own app, such as `http://localhost:5173`: its pages may use the service and Clerk's stand-in,
    /// and the sandbox prints the app's settings
    #[arg(long, value_name = "ORIGIN", value_parser = app::origin)]
    app: Option<String>,
    /// An additional origin whose pages may use the service and Clerk's stand-in
    #[arg(long, value_name = "ORIGIN")]
    allow_origin: Vec<String>,
    /// An additional environment variable for the service
    #[arg(long, value_name = "NAME=VALUE", value_parser = assignment)]
    set: Vec<(String, String)>,
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("use the form NAME=VALUE".to_owned()),
    }
}

/// Why the sandbox failed.
#[derive(Debug, thiserror::Error)]
enum DevError {
    #[error("{0}")]
    LiveKeys(#[from] live_keys::LiveKeyFound),
    #[error("port {port} is in use: choose another for {what} with {flag} (0 takes any free one)")]
    PortTaken { port: u16, what: &'static str, flag: &'static str },
    #[error("cannot start {what}: {error}")]
    Start { what: &'static str, error: io::Error },
    #[error("cannot read the policy {}: {error}", .file.display())]
    Policy { file: PathBuf, error: io::Error },
    #[error("{0}")]
    Service(#[from] service::ServiceError),
    #[error("the service ended unexpectedly: {0}")]
    ServiceEnded(Exit),
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
}

/// Runs until a signal, the end of standard input (with `--json`), or a failure.
pub(crate) fn run(options: DevOptions) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(error),
    };
    match runtime.block_on(run_until_stopped(options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(failure),
    }
}

#[expect(clippy::print_stderr, reason = "the command reports to the terminal")]
fn fail(why: impl Display) -> ExitCode {
    eprintln!("sandbox: {why}");
    ExitCode::FAILURE
}

async fn run_until_stopped(options: DevOptions) -> Result<(), DevError> {
    let begun = Instant::now();
    live_keys::refuse(env::vars_os().chain(options.set.iter().map(|(name, value)| (name.into(), value.into()))))?;
    let policy = policy::read(options.policy.as_deref())
        .map_err(|error| DevError::Policy { file: options.policy.unwrap_or_default(), error })?;
    let mut stop = Stop::listen(options.json).map_err(DevError::Signals)?;

    let page_listeners = loopback::listen(options.page_port)
        .map_err(|error| not_started(error, "the page", options.page_port, "--page-port"))?;
    let page_port = page_listeners.port();
    let page_origin = format!("http://localhost:{page_port}");

    let clerk_options = clerk::Options {
        port: options.clerk_port,
        authorized_party: page_origin.clone(),
        frontend_api: FRONTEND_API.to_owned(),
        secret_key: Some(format!("sk_test_{}", "0".repeat(42))),
        allowed_origins: options.allow_origin.iter().chain(&options.app).cloned().collect(),
        ..clerk::Options::default()
    };
    let clerk = Clerk::start(clerk_options)
        .await
        .map_err(|error| not_started(error, "the Clerk stand-in", options.clerk_port, "--clerk-port"))?;
    let ably_options = ably::Options { port: options.ably_port, revocable_tokens: true, ..ably::Options::default() };
    let ably = Ably::start(ably_options)
        .await
        .map_err(|error| not_started(error, "the Ably stand-in", options.ably_port, "--ably-port"))?;

    let reserved_service_port = ReservedPort::new(options.service_port)
        .map_err(|error| not_started(error, "the service", options.service_port, "--service-port"))?;
    let mut parties = vec![page_origin, format!("http://127.0.0.1:{page_port}")];
    parties.extend(options.allow_origin.into_iter().chain(options.app.clone()));
    // With --json, standard output is for the sandbox itself.
    let output = if options.json { Output::Stderr } else { Output::Stdout };
    let reserved_admin_port =
        ReservedPort::new(0).map_err(|error| DevError::Start { what: "the service's admin listener", error })?;
    let service_port = reserved_service_port.number();
    let ports = (service_port, reserved_admin_port.number());
    let environment = service::environment(&clerk, &ably, &parties, ports, output, options.set);
    // The settings that an operator makes in the dashboards of Clerk and Ably.
    clerk.set_endpoints(service::webhook_endpoint(&environment, service_port).into_iter().collect());
    ably.set_revocable_tokens(service::revocable_tokens(&environment));
    let admin_port = service::admin_port(&environment);
    let program = Program::find(options.service, environment)?;
    let app = options.app.map(|origin| AppSettings::new(origin, &clerk, &ably, service_port));
    let ready = Ready::new(&clerk, &ably, page_port, service_port, admin_port, program.path(), app);
    let directory = program.directory(&policy)?;
    let (reload_sender, reload_receiver) = mpsc::unbounded_channel();
    let editor = Editor {
        explainer: Explainer::new(program.clone(), directory.path().to_owned()),
        in_force: PolicyFile::new(directory.path(), policy, reload_receiver),
        port: page_port,
    };
    let page = Page::start(page_listeners, &ready, editor)
        .await
        .map_err(|error| not_started(error, "the page", page_port, "--page-port"))?;
    let mut service = Service::spawn(&program, directory, output, reload_sender)?;

    let outcome = tokio::select! {
        outcome = until_it_ends(&mut service, service_port, || ready.announce(options.json, begun.elapsed())) => outcome,
        () = stop.requested() => Ok(()),
    };
    service.stop(stop.forced()).await;
    page.stop().await;
    ably.stop().await;
    clerk.stop().await;
    outcome
}

/// Waits until the service is ready, calls `ready`, and then waits for the service to end, which is always an error.
async fn until_it_ends(service: &mut Service, port: u16, ready: impl FnOnce()) -> Result<(), DevError> {
    service.until_ready(port).await?;
    ready();
    Err(DevError::ServiceEnded(service.ended().await))
}

fn not_started(error: io::Error, what: &'static str, port: u16, flag: &'static str) -> DevError {
    match error.kind() {
        io::ErrorKind::AddrInUse => DevError::PortTaken { port, what, flag },
        _ => DevError::Start { what, error },
    }
}

/// The signals and the end of input that stop the sandbox.
struct Stop {
    signals: [Signal; 3],
    end_of_input: Option<oneshot::Receiver<()>>,
}

impl Stop {
    fn listen(until_end_of_input: bool) -> io::Result<Self> {
        let on = |kind| signal(kind);
        Ok(Self {
            signals: [on(SignalKind::interrupt())?, on(SignalKind::terminate())?, on(SignalKind::hangup())?],
            end_of_input: until_end_of_input.then(end_of_input),
        })
    }

    async fn requested(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        let input = async {
            match self.end_of_input.as_mut() {
                Some(end) => {
                    let _ = end.await;
                    self.end_of_input = None;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
            () = input => {}
        }
    }

    /// Waits for another Ctrl-C. Other signals and the end of input often come together, so they count once.
    async fn forced(&mut self) {
        let [interrupt, ..] = &mut self.signals;
        interrupt.recv().await;
    }
}

/// Reads on its own thread, because a blocking read would keep the runtime from ending.
fn end_of_input() -> oneshot::Receiver<()> {
    let (ended, end) = oneshot::channel();
    thread::spawn(move || {
        let mut input = io::stdin().lock();
        let mut ignored = [0; 64];
        while matches!(input.read(&mut ignored), Ok(1..)) {}
        let _ = ended.send(());
    });
    end
}
