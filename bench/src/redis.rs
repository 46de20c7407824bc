//! A real Redis for the time of a measurement.

use std::{
    net::{Ipv4Addr, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::{machine::Cores, process::free_port};

/// A running `redis-server` without data. Dropping it kills it.
pub(crate) struct Redis {
    child: Child,
    port: u16,
    _directory: TempDir,
}

impl Redis {
    /// Starts it on a free port, and not on the server's core.
    pub(crate) fn start(cores: &Cores) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let port = free_port()?;
        let mut command = Command::new("redis-server");
        command
            .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "no"])
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        cores.use_others()?;
        let child = command.spawn();
        cores.use_loads()?;
        let child = child.context("redis-server does not start; `make redis` installs it")?;
        let redis = Self { child, port, _directory: directory };
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if Instant::now() > deadline {
                bail!("redis-server does not listen");
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(redis)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
