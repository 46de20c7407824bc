//! The machine: what it is, and which of its cores run the server and the load.

use std::{fs, thread};

use anyhow::Result;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::Serialize;

/// What a reader needs to know of the machine. No names and no paths.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: u64,
    pub(crate) kernel: String,
}

impl Machine {
    /// Before any pinning, which hides cores.
    pub(crate) fn this() -> Self {
        let field = |path: &str, name: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'));
            line.unwrap_or("unknown").trim().to_owned()
        };
        let memory_kib = field("/proc/meminfo", "MemTotal").split(' ').next().and_then(|kib| kib.parse::<u64>().ok());
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        Self {
            processor: field("/proc/cpuinfo", "model name"),
            cores: thread::available_parallelism().map_or(1, Into::into),
            memory_gib: memory_kib.unwrap_or(0).div_ceil(1024 * 1024),
            // A distribution's suffix may name a host.
            kernel: format!("Linux {}", release.split('-').next().unwrap_or(&release)),
        }
    }
}

/// The cores: one for the server, one for the load, and all but the server's for everything else. With a single core, all
/// share it.
#[derive(Clone, Debug)]
pub(crate) struct Cores {
    server: CpuSet,
    load: CpuSet,
    others: CpuSet,
}

impl Cores {
    pub(crate) fn of_this_process() -> Result<Self> {
        let allowed = sched_getaffinity(None)?;
        let mut numbers = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        let only = |core: usize| {
            let mut set = CpuSet::new();
            set.set(core);
            set
        };
        let (Some(first), Some(second)) = (numbers.next(), numbers.next()) else {
            return Ok(Self { server: allowed, load: allowed, others: allowed });
        };
        let mut others = allowed;
        others.unset(first);
        Ok(Self { server: only(first), load: only(second), others })
    }

    /// Whether the server has a core of its own.
    pub(crate) fn are_separate(&self) -> bool {
        self.server.count() == 1 && self.load != self.server
    }

    /// Moves the current thread to the server's core. A process that it starts stays there and sees one core.
    pub(crate) fn use_servers(&self) -> Result<()> {
        Ok(sched_setaffinity(None, &self.server)?)
    }

    /// Moves the current thread to the core of the load.
    pub(crate) fn use_loads(&self) -> Result<()> {
        Ok(sched_setaffinity(None, &self.load)?)
    }

    /// Moves the current thread to all cores but the server's. Threads that it starts stay there.
    pub(crate) fn use_others(&self) -> Result<()> {
        Ok(sched_setaffinity(None, &self.others)?)
    }
}

/// The time that a thread or process has run, in nanoseconds, from a `schedstat` file.
pub(crate) fn run_time_ns(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.split(' ').next()?.parse().ok()
}
