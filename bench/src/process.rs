//! A server under measurement: a child process with a clean environment, on the server's core.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::machine::{Cores, run_time_ns};

/// What to start.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) arguments: Vec<String>,
    /// The variable that takes the port.
    pub(crate) port_variable: &'static str,
    /// The variable that takes another free port, for metrics.
    pub(crate) admin_port_variable: Option<&'static str>,
    pub(crate) environment: Vec<(String, String)>,
    /// `ably-clerk-auth.toml` in the working directory. Empty: no file.
    pub(crate) toml: String,
}

/// A running server. Dropping it kills it.
pub(crate) struct Process {
    child: Child,
    started: Instant,
    address: SocketAddr,
    directory: TempDir,
}

impl Process {
    /// Starts a program on a free port. Its output goes to a file in a directory of its own.
    pub(crate) fn start(program: &Program, cores: &Cores) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        if !program.toml.is_empty() {
            fs::write(directory.path().join("ably-clerk-auth.toml"), &program.toml)?;
        }
        let output = File::create(directory.path().join("output"))?;
        let (port, admin_port) = free_ports()?;
        let mut command = Command::new(&program.path);
        command
            .args(&program.arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env(program.port_variable, port.to_string())
            .envs(program.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        if let Some(variable) = program.admin_port_variable {
            command.env(variable, admin_port.to_string());
        }
        cores.use_servers()?;
        let started = Instant::now();
        let child = command.spawn();
        cores.use_loads()?;
        let child = child.with_context(|| format!("cannot start {}", program.path.display()))?;
        Ok(Self { child, started, address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)), directory })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Repeats a request until it is answered with 200, and returns the time since the start of the process.
    pub(crate) fn first_success(&mut self, request: &[u8]) -> Result<Duration> {
        const LONGEST_START: Duration = Duration::from_secs(20);
        const PAUSE: Duration = Duration::from_micros(200);
        loop {
            if succeeds(self.address, request) {
                return Ok(self.started.elapsed());
            }
            if self.child.try_wait()?.is_some() || self.started.elapsed() > LONGEST_START {
                bail!("the server does not answer with 200:\n{}", self.output());
            }
            thread::sleep(PAUSE);
        }
    }

    /// What the process wrote, at most the first 4 KB.
    pub(crate) fn output(&self) -> String {
        let mut text = Vec::new();
        if let Ok(file) = File::open(self.directory.path().join("output")) {
            let _ = file.take(4096).read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The time that all threads of the process have run, in nanoseconds.
    pub(crate) fn cpu_ns(&self) -> Result<u64> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.child.id()))?;
        let times = threads.flatten().filter_map(|thread| run_time_ns(thread.path().join("schedstat").to_str()?));
        Ok(times.sum())
    }

    /// The resident memory, in bytes.
    pub(crate) fn resident_bytes(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next());
        Ok(kib.context("VmRSS is missing")?.parse::<u64>()? * 1024)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two ports that are free now.
fn free_ports() -> Result<(u16, u16)> {
    let listeners = [TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?];
    let [first, second] = listeners.each_ref().map(TcpListener::local_addr);
    Ok((first?.port(), second?.port()))
}

/// A port that is free now.
pub(crate) fn free_port() -> Result<u16> {
    Ok(free_ports()?.0)
}

fn succeeds(address: SocketAddr, request: &[u8]) -> bool {
    let Ok(mut stream) = TcpStream::connect(address) else { return false };
    let mut head = [0; 12];
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    stream.write_all(request).is_ok() && stream.read_exact(&mut head).is_ok() && head.ends_with(b" 200")
}
