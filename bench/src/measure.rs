//! The measurement: rounds over all targets, each for a short time, so that a slow moment of the machine meets all of them.

use std::{collections::HashMap, sync::Arc, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use crate::{
    floor::Verification,
    load::{End, Load, Order, Pace, Requests, Slice, to_f64},
    machine::Cores,
    process::{Process, Program},
    redis::Redis,
    targets::{Companion, Lifetime, Target, WarmUp},
    tokens::Pool,
};

/// Connections that are open at once.
pub(crate) const CONNECTIONS: usize = 32;
/// So many keep a server busy although each request waits for Redis.
pub(crate) const MANY_CONNECTIONS: usize = 128;

/// What most measurements begin with.
pub(crate) const WARM_UP: WarmUp = WarmUp::For(Duration::from_millis(300));

/// Latencies in microseconds.
#[expect(clippy::struct_field_names, reason = "the unit is part of the name in JSON")]
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Latencies {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
}

impl Latencies {
    pub(crate) fn of(slice: &Slice) -> Self {
        Self { p50_us: slice.latency_us(0.5), p99_us: slice.latency_us(0.99), p999_us: slice.latency_us(0.999) }
    }
}

/// One round of one target.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Sample {
    pub(crate) requests_per_second: f64,
    /// The part of the time in which the server used its core, at saturation.
    pub(crate) busy: f64,
    /// CPU time of the server's process for each request, at saturation.
    pub(crate) cpu_us: f64,
    pub(crate) at_saturation: Latencies,
    pub(crate) at_half_load: Latencies,
    /// After the load.
    pub(crate) resident_bytes: u64,
}

/// All that one round measured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Round {
    /// The CPU time of one verification, measured before each target.
    pub(crate) verification_us: Vec<f64>,
    /// By the target's position.
    pub(crate) samples: Vec<Sample>,
}

/// A server, with what it needs.
pub(crate) struct Running {
    pub(crate) process: Process,
    _redis: Option<Redis>,
}

/// The settings of a run, and the servers that stay for all of it.
pub(crate) struct Measurement<'a> {
    pub(crate) cores: &'a Cores,
    pub(crate) duration: Duration,
    /// A request that every server answers with a token.
    pub(crate) first_request: Vec<u8>,
    kept: HashMap<String, Running>,
}

impl<'a> Measurement<'a> {
    pub(crate) fn new(cores: &'a Cores, duration: Duration, unique: &Arc<Pool>) -> Self {
        let mut first_request = Vec::new();
        // The last token: no load gets that far.
        let last = unique.len().saturating_sub(1);
        Requests::with_tokens(Arc::clone(unique), Order::Once).write(last, &mut first_request);
        Self { cores, duration, first_request, kept: HashMap::new() }
    }

    /// Measures each target once.
    pub(crate) fn round(
        &mut self,
        targets: &[Target],
        verification: Option<&Verification>,
        progress: impl Fn(&Target),
    ) -> Result<Round> {
        let mut round = Round::default();
        if let Some(verification) = verification {
            round.verification_us.push(verification.measure(self.duration / 4, self.cores)?);
        }
        for target in targets {
            progress(target);
            if let Some(verification) = verification {
                round.verification_us.push(verification.measure(self.duration / 8, self.cores)?);
            }
            round.samples.push(self.sample(target).with_context(|| target.name.clone())?);
        }
        Ok(round)
    }

    fn sample(&mut self, target: &Target) -> Result<Sample> {
        match target.lifetime {
            Lifetime::Round => self.sample_of(target, &self.start(&target.program, target.companion)?),
            Lifetime::Run => {
                let running = match self.kept.remove(&target.name) {
                    Some(running) => running,
                    None => self.start_and_train(target)?,
                };
                let sample = self.sample_of(target, &running);
                self.kept.insert(target.name.clone(), running);
                sample
            }
        }
    }

    /// Starts a server and waits for its first token.
    pub(crate) fn start(&self, program: &Program, companion: Companion) -> Result<Running> {
        let redis = if companion == Companion::Redis { Some(Redis::start(self.cores)?) } else { None };
        let mut program = program.clone();
        if let Some(redis) = &redis {
            program.environment.push(("REDIS_URL".to_owned(), redis.url()));
        }
        let mut process = Process::start(&program, self.cores)?;
        process.first_success(&self.first_request)?;
        Ok(Running { process, _redis: redis })
    }

    /// Sends requests until the server's compiler has done its work.
    fn start_and_train(&self, target: &Target) -> Result<Running> {
        const TRAINING: Duration = Duration::from_secs(3);
        let running = self.start(&target.program, target.companion)?;
        let mut load = Load::open(running.process.address(), target.connections, &target.requests, target.expected)?;
        load.run(Pace::Closed, End::After(TRAINING))?.without_failures()?;
        Ok(running)
    }

    fn sample_of(&self, target: &Target, running: &Running) -> Result<Sample> {
        let process = &running.process;
        let mut load = Load::open(process.address(), target.connections, &target.requests, target.expected)?;
        warm_up(&mut load, target.warm_up)?;
        let before = process.cpu_ns()?;
        let saturated = load.run(Pace::Closed, End::After(self.duration))?.without_failures()?;
        let cpu_ns = process.cpu_ns()? - before;
        // A server that is not busy all the time is not at saturation: then the load is the limit.
        let busy = to_f64(cpu_ns) / 1e9 / saturated.elapsed.as_secs_f64();
        ensure!(
            saturated.elapsed >= self.duration,
            "the session tokens were used up before the end; give FASTEST_RATE (run.rs) a higher value"
        );
        let half = self.half_load(&mut load, saturated.rate() / 2.0)?;
        Ok(Sample {
            requests_per_second: saturated.rate(),
            busy,
            cpu_us: to_f64(cpu_ns) / to_f64(saturated.answers) / 1000.0,
            at_saturation: Latencies::of(&saturated),
            at_half_load: half,
            resident_bytes: process.resident_bytes()?,
        })
    }

    /// In parts. The worst count for p99.9 only: the machine stalls now and then, whatever runs on it.
    fn half_load(&self, load: &mut Load<'_>, rate: f64) -> Result<Latencies> {
        const PARTS: u32 = 10;
        const CALM_PARTS: usize = 8;
        let part = |_| load.run(Pace::Open(rate), End::After(self.duration / PARTS))?.without_failures();
        let mut parts = (0..PARTS).map(part).collect::<Result<Vec<_>>>()?;
        parts.sort_by(|one, other| one.latency_us(0.99).total_cmp(&other.latency_us(0.99)));
        let (calm, worst) = parts.split_at(CALM_PARTS);
        let mut half = Slice::new()?;
        calm.iter().try_for_each(|part| half.add(part))?;
        let calm = Latencies::of(&half);
        worst.iter().try_for_each(|part| half.add(part))?;
        Ok(Latencies { p999_us: Latencies::of(&half).p999_us, ..calm })
    }
}

/// Prepares a server for a measurement.
pub(crate) fn warm_up(load: &mut Load<'_>, warm_up: WarmUp) -> Result<()> {
    const ATTEMPTS: usize = 20;
    match warm_up {
        WarmUp::For(duration) => load.run(Pace::Closed, End::After(duration))?.without_failures().map(drop),
        WarmUp::Users(users) => {
            let mut attempt = 0;
            loop {
                attempt += 1;
                load.skip_to(0);
                let slice = load.run(Pace::Closed, End::AfterRequests(users))?;
                if slice.failures == 0 || attempt == ATTEMPTS {
                    return slice.without_failures().map(drop);
                }
                thread::sleep(Duration::from_millis(500));
            }
        }
    }
}

/// How a program starts.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Start {
    /// From the start of the process to its first token.
    pub(crate) first_token_ms: f64,
    /// Shortly after that.
    pub(crate) idle_bytes: u64,
}

impl Measurement<'_> {
    /// Starts a program, waits for its first token, and ends it.
    pub(crate) fn start_time(&self, program: &Program) -> Result<Start> {
        let mut process = Process::start(program, self.cores)?;
        let first_token = process.first_success(&self.first_request)?;
        thread::sleep(Duration::from_millis(500));
        Ok(Start { first_token_ms: first_token.as_secs_f64() * 1000.0, idle_bytes: process.resident_bytes()? })
    }
}
