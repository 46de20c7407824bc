//! The service as a child process, with its own environment and directory. It ends with its parent.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, Permissions};
use std::future::Future;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{env, process};

use clap::Args;
use rustix::process::{Pid, Signal, kill_process};
use sandbox::ably::{Ably, RevocableTokens};
use sandbox::clerk::{Clerk, Endpoint, SigningSecret};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::log::{self, Output, ReloadEvent};

/// The name of the service's configuration file.
pub(super) const CONFIGURATION: &str = "ably-clerk-auth.toml";

const NAME: &str = "ably-clerk-auth";
const WEBHOOK_SIGNING_SECRET: &str = "CLERK_WEBHOOK_SIGNING_SECRET";
const REVOCABLE_TOKENS: &str = "ABLY_REVOCABLE_TOKENS";
const ADMIN_PORT: &str = "ADMIN_PORT";
const START_TIMEOUT: Duration = Duration::from_secs(15);
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
const LOG_TIMEOUT: Duration = Duration::from_secs(1);
const POLL_INTERVAL: Duration = Duration::from_millis(3);

#[derive(Debug, thiserror::Error)]
pub(super) enum ServiceError {
    #[error("service not found at {}: build it with `cargo build`, or set --service", .0.display())]
    Missing(PathBuf),
    #[error("cannot start the service {}: {error}", .program.display())]
    Spawn { program: PathBuf, error: io::Error },
    #[error("the service ended before it was ready: {0}")]
    Ended(Exit),
    #[error("the service was not ready after {} s: its log above shows the reason", START_TIMEOUT.as_secs())]
    NotReady,
}

/// How a process ended.
#[derive(Debug)]
pub(super) struct Exit(io::Result<ExitStatus>);

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Ok(status) => match (status.code(), status.signal()) {
                (Some(code), _) => write!(f, "exit code {code}"),
                (None, Some(signal)) => write!(f, "killed by signal {signal}"),
                (None, None) => write!(f, "{status}"),
            },
            Err(error) => write!(f, "{error}"),
        }
    }
}

/// The complete environment of the service.
pub(super) fn environment(
    clerk: &Clerk,
    ably: &Ably,
    authorized_parties: &[String],
    (port, admin_port): (u16, u16),
    output: Output,
    set: Vec<(String, String)>,
) -> Vec<(String, String)> {
    let passed_through = ["LOG_FORMAT", "LOG_LEVEL"].into_iter().filter_map(|name| Some((name, env::var(name).ok()?)));
    let given = [
        ("ABLY_API_KEY", ably.api_key().to_owned()),
        ("ABLY_REST_URL", ably.url()),
        ("CLERK_PUBLISHABLE_KEY", clerk.publishable_key().to_owned()),
        ("CLERK_SECRET_KEY", clerk.secret_key().to_owned()),
        ("CLERK_API_URL", clerk.url()),
        ("CLERK_AUTHORIZED_PARTIES", authorized_parties.join(",")),
        (WEBHOOK_SIGNING_SECRET, SigningSecret::generate().text().to_owned()),
        (REVOCABLE_TOKENS, "true".to_owned()),
        ("SERVER_HOST", Ipv4Addr::LOCALHOST.to_string()),
        ("SERVER_PORT", port.to_string()),
        (ADMIN_PORT, admin_port.to_string()),
        ("LOG_FORMAT", output.format().to_owned()),
    ];
    given
        .into_iter()
        .chain(passed_through)
        .map(|(name, value)| (name.to_owned(), value))
        // The last value of a name wins.
        .chain(set)
        .collect()
}

fn value_of<'a>(environment: &'a [(String, String)], name: &str) -> &'a str {
    environment.iter().rfind(|(each, _)| each == name).map_or("", |(_, value)| value)
}

/// The webhook endpoint of the service; `None` without a valid signing secret. The service itself reports an invalid
/// one.
pub(super) fn webhook_endpoint(environment: &[(String, String)], port: u16) -> Option<Endpoint> {
    let secrets = value_of(environment, WEBHOOK_SIGNING_SECRET).split(',').map(str::trim);
    let secrets: Vec<_> = secrets.filter(|secret| !secret.is_empty()).collect();
    Endpoint::new(&format!("http://127.0.0.1:{port}/webhooks/clerk"), &secrets).ok()
}

/// The port of the admin listener; `None` if it is off. The service itself reports an invalid port.
pub(super) fn admin_port(environment: &[(String, String)]) -> Option<u16> {
    value_of(environment, ADMIN_PORT).parse().ok().filter(|port| *port != 0)
}

/// Whether the service expects revocable tokens.
pub(super) fn revocable_tokens(environment: &[(String, String)]) -> RevocableTokens {
    if value_of(environment, REVOCABLE_TOKENS) == "true" { RevocableTokens::On } else { RevocableTokens::Off }
}

/// The service's executable and environment.
#[derive(Clone)]
pub(super) struct Program {
    path: PathBuf,
    environment: Vec<(String, String)>,
}

impl Program {
    /// Finds the executable at `path`, or beside this one.
    pub(super) fn find(path: Option<PathBuf>, environment: Vec<(String, String)>) -> Result<Self, ServiceError> {
        let path = path.map_or_else(beside_this_one, std::path::absolute);
        let path = path.map_err(|error| ServiceError::Spawn { program: NAME.into(), error })?;
        if path.is_file() { Ok(Self { path, environment }) } else { Err(ServiceError::Missing(path)) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A command in `directory`, whose only settings are the environment and the configuration file there.
    pub(super) fn command<I>(&self, directory: &Path, arguments: I) -> io::Result<Command>
    where
        I: IntoIterator<Item: AsRef<OsStr>>,
    {
        let mut command = tied_to_this_process(&self.path)?;
        command
            .args(arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(directory)
            // A Ctrl-C in the terminal is for the sandbox, which stops the service.
            .process_group(0);
        Ok(command)
    }

    fn failed(&self) -> impl Fn(io::Error) -> ServiceError + '_ {
        |error| ServiceError::Spawn { program: self.path.clone(), error }
    }

    /// A temporary directory with only this configuration file.
    pub(super) fn directory(&self, configuration: &str) -> Result<TempDir, ServiceError> {
        let make = || {
            let mut directory = tempfile::Builder::new();
            let directory = directory.prefix("sandbox-").permissions(Permissions::from_mode(0o700)).tempdir()?;
            fs::write(directory.path().join(CONFIGURATION), configuration)?;
            Ok(directory)
        };
        make().map_err(self.failed())
    }
}

#[derive(Debug)]
pub(super) struct Service {
    child: Child,
    log: JoinHandle<()>,
    directory: TempDir,
}

impl Service {
    /// Starts the service in `directory`. Its log goes to `output`, and its reload messages to `reload_events`.
    pub(super) fn spawn(
        program: &Program,
        directory: TempDir,
        output: Output,
        reload_events: UnboundedSender<ReloadEvent>,
    ) -> Result<Self, ServiceError> {
        let spawn = || {
            let (log, writer) = io::pipe()?;
            let mut command = program.command(directory.path(), [] as [&str; 0])?;
            let child = command.stdin(Stdio::null()).stdout(writer).kill_on_drop(true).spawn()?;
            Ok((child, log::pass_on(log, output, reload_events)?))
        };
        let (child, log) = spawn().map_err(program.failed())?;
        Ok(Self { child, log, directory })
    }

    /// Returns when `/readyz` answers 200.
    pub(super) async fn until_ready(&mut self, port: u16) -> Result<(), ServiceError> {
        let ready = async {
            while !is_ready(port).await {
                sleep(POLL_INTERVAL).await;
            }
        };
        tokio::select! {
            outcome = timeout(START_TIMEOUT, ready) => outcome.map_err(|_| ServiceError::NotReady)?,
            status = self.child.wait() => return Err(ServiceError::Ended(Exit(status))),
        }
        Ok(())
    }

    /// Returns when the service has ended.
    pub(super) async fn ended(&mut self) -> Exit {
        Exit(self.child.wait().await)
    }

    /// Stops the service, and kills it on a timeout or when `hurry` completes.
    pub(super) async fn stop(mut self, hurry: impl Future<Output = ()>) {
        if let Some(pid) = self.child.id().and_then(pid) {
            // It may have ended already.
            let _ = kill_process(pid, Signal::TERM);
            let is_over = tokio::select! {
                outcome = timeout(STOP_TIMEOUT, self.child.wait()) => outcome.is_ok(),
                () = hurry => false,
            };
            if !is_over {
                let _ = self.child.kill().await;
            }
        }
        // Waits for the last log lines, with a timeout: a process that the service left behind could keep the log
        // open.
        let _ = timeout(LOG_TIMEOUT, spawn_blocking(|| self.log.join())).await;
        let _ = self.directory.close();
    }
}

fn beside_this_one() -> io::Result<PathBuf> {
    env::current_exe().map(|path| path.with_file_name(NAME))
}

fn pid(id: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(id).ok()?)
}

/// A request over a bare socket avoids the setup of an HTTP client.
async fn is_ready(port: u16) -> bool {
    let look = async {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        let request = format!("GET /readyz HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut status = [0; 12];
        stream.read_exact(&mut status).await?;
        io::Result::Ok(status.ends_with(b" 200"))
    };
    matches!(timeout(Duration::from_secs(1), look).await, Ok(Ok(true)))
}

/// Runs a program that the kernel ends when this process ends, even if killed.
#[derive(Args)]
pub(crate) struct TiedToParent {
    parent: i32,
    program: PathBuf,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

impl TiedToParent {
    /// Ties this process to its parent, and executes the program. Returns only on an error.
    #[expect(clippy::print_stderr, reason = "the command reports to the terminal")]
    pub(crate) fn become_the_program(self) -> ExitCode {
        let error = match tie_to(self.parent) {
            Ok(()) => process::Command::new(&self.program).args(self.arguments).exec(),
            Err(error) => error,
        };
        eprintln!("sandbox: cannot start the service {}: {error}", self.program.display());
        ExitCode::FAILURE
    }
}

/// Starts the program through this executable. On Linux, only a process itself can request a signal for the end of
/// its parent; the request survives `exec`.
#[cfg(target_os = "linux")]
fn tied_to_this_process(program: &Path) -> io::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.arg("tied-to-parent").arg(process::id().to_string()).arg(program);
    Ok(command)
}

#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "it can fail on Linux")]
fn tied_to_this_process(program: &Path) -> io::Result<Command> {
    Ok(Command::new(program))
}

#[cfg(target_os = "linux")]
fn tie_to(parent: i32) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
    // If the parent ended before the line above, the kernel sends no signal.
    match rustix::process::getppid() {
        Some(pid) if pid.as_raw_nonzero().get() == parent => Ok(()),
        _ => Err(io::Error::other("the sandbox has already ended")),
    }
}

#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "it can fail on Linux")]
fn tie_to(_parent: i32) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(set: &[(&str, &str)]) -> Vec<(String, String)> {
        let given = [(WEBHOOK_SIGNING_SECRET, "whsec_c2VjcmV0"), (REVOCABLE_TOKENS, "true"), (ADMIN_PORT, "41000")];
        given.iter().chain(set).map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn webhooks_are_signed_with_the_secrets_of_the_service() {
        let endpoint = |set: &[_]| webhook_endpoint(&environment(set), 8080);
        assert_eq!(endpoint(&[]).unwrap().url(), "http://127.0.0.1:8080/webhooks/clerk");
        assert!(endpoint(&[(WEBHOOK_SIGNING_SECRET, " whsec_b25l, ,whsec_dHdv ")]).is_some());
        for without in ["", " , ", "not one"] {
            assert!(endpoint(&[(WEBHOOK_SIGNING_SECRET, without)]).is_none(), "{without}");
        }
    }

    #[test]
    fn the_stand_in_has_revocable_tokens_if_the_service_expects_them() {
        assert_eq!(revocable_tokens(&environment(&[])), RevocableTokens::On);
        for off in ["false", ""] {
            assert_eq!(revocable_tokens(&environment(&[(REVOCABLE_TOKENS, off)])), RevocableTokens::Off);
        }
    }

    #[test]
    fn the_admin_port_is_the_one_of_the_service() {
        assert_eq!(admin_port(&environment(&[])), Some(41000));
        assert_eq!(admin_port(&environment(&[(ADMIN_PORT, "41001")])), Some(41001));
        for none in ["0", "", "none"] {
            assert_eq!(admin_port(&environment(&[(ADMIN_PORT, none)])), None, "{none}");
        }
    }
}
