//! One run, from its options to its report.

use std::{
    io::{self, Write as _},
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    args::{Options, Service},
    cases,
    floor::Verification,
    machine::{Cores, Machine},
    measure::Measurement,
    programs,
    report::{self, Report},
    stand_ins::StandIns,
    targets,
};

/// What every run begins with.
struct Preparation {
    machine: Machine,
    cores: Cores,
    stand_ins: StandIns,
    services: Vec<Service>,
    duration: Duration,
}

impl Preparation {
    fn of(options: &Options) -> Result<Self> {
        /// More than any server here answers on one core with a token that it has not seen.
        const FASTEST_RATE: f64 = 32_000.0;
        ensure!(options.rounds > 0, "--rounds must be at least 1");
        ensure!((0.1..=60.0).contains(&options.seconds), "--seconds must be from 0.1 to 60");
        raise_open_files()?;
        let services =
            if options.services.is_empty() { vec![programs::default_service()?] } else { options.services.clone() };
        let machine = Machine::this();
        let cores = Cores::of_this_process()?;
        // The stand-ins' threads stay off the server's core.
        cores.use_others()?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 60 s were allowed")]
        let tokens = ((options.seconds * 1.5 + 0.5) * FASTEST_RATE) as usize;
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tokens");
        let stand_ins = StandIns::start(&directory, tokens.max(cases::USERS))?;
        Ok(Self { machine, cores, stand_ins, services, duration: Duration::from_secs_f64(options.seconds) })
    }
}

/// Measures every target, and reports.
pub(crate) fn targets(options: &Options) -> Result<()> {
    require_known_names(options)?;
    if !targets::names().any(|name| options.selects(name)) {
        return Ok(());
    }
    let Preparation { machine, cores, stand_ins, services, duration } = Preparation::of(options)?;
    let progress = Progress::start();
    progress.say("signing session tokens");
    let targets = targets::targets(options, &services, &stand_ins)?;
    let unique = stand_ins.unique()?;
    let verification = if options.selects(targets::FLOOR) {
        Some(Verification::of(&unique, stand_ins.signer.public_key())?)
    } else {
        None
    };
    cores.use_loads()?;
    let mut measurement = Measurement::new(&cores, duration, &unique);
    let starting = targets::starting(&targets, &services, &stand_ins);
    let mut starts = vec![Vec::new(); starting.len()];
    for round in 1..=options.rounds {
        for (program, starts) in starting.iter().zip(&mut starts) {
            progress.say(&format!("start {round}/{}: {}", options.rounds, program.name));
            starts.push(measurement.start_time(&program.program).with_context(|| program.name.clone())?);
        }
    }
    let mut rounds = Vec::new();
    for number in 1..=options.rounds {
        let say =
            |target: &targets::Target| progress.say(&format!("round {number}/{}: {}", options.rounds, target.name));
        rounds.push(measurement.round(&targets, verification.as_ref(), say)?);
    }
    progress.end();
    let report = Report::new(&report::Measured {
        machine,
        are_cores_separate: cores.are_separate(),
        date: today(),
        seconds: options.seconds,
        targets: &targets,
        rounds: &rounds,
        starting: &starting,
        starts: &starts,
    });
    report.print()?;
    if let Some(directory) = options.results.as_ref().filter(|_| options.is_whole()) {
        report.write(directory)?;
    }
    Ok(())
}

/// Measures the cold and hostile cases, and reports.
pub(crate) fn cases(options: &Options) -> Result<()> {
    require_known_names(options)?;
    if !cases::names().any(|name| options.selects(name)) {
        return Ok(());
    }
    let Preparation { machine, cores, stand_ins, services, duration } = Preparation::of(options)?;
    let progress = Progress::start();
    progress.say("signing session tokens");
    let run = cases::Run { cores: &cores, stand_ins: &stand_ins, duration };
    let cases = run.all(options, &services, |name| progress.say(name))?;
    progress.end();
    let report = report::CasesReport { machine, date: today(), cases };
    report.print()?;
    if let Some(directory) = options.results.as_ref().filter(|_| options.is_whole()) {
        report.write(directory)?;
    }
    Ok(())
}

/// Fails if a selected name is neither a target's nor a case's.
fn require_known_names(options: &Options) -> Result<()> {
    let is_known = |name: &str| targets::names().chain(cases::names()).any(|known| known == name);
    match options.only.iter().find(|name| !name.is_empty() && !is_known(name)) {
        Some(unknown) => bail!("there is no target and no case {unknown}; `bench list` prints all"),
        None => Ok(()),
    }
}

/// The date in UTC, as `2026-01-31`.
fn today() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string().chars().take(10).collect()
}

/// As many open files as the system allows this process and its children.
fn raise_open_files() -> Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

/// What is being measured now, on the terminal.
struct Progress(Instant);

impl Progress {
    fn start() -> Self {
        Self(Instant::now())
    }

    fn say(&self, what: &str) {
        // A closed terminal does not matter.
        let _ = write!(io::stderr(), "\r\x1b[K{:4} s  {what}", self.0.elapsed().as_secs());
    }

    fn end(&self) {
        let _ = writeln!(io::stderr(), "\r\x1b[K{:4} s  done", self.0.elapsed().as_secs());
    }
}
