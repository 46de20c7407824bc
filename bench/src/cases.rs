//! Cold and hostile cases, and how cost grows with users and rules. Each is measured in every round, with and without what
//! makes it hard.

mod flood;
mod idle;
mod reconnect;
mod rules;
mod slow_clerk;
mod users;

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};

use crate::{
    args::{Options, Service},
    load::{End, Expected, Load, Order, Pace, Requests, Slice, to_f64},
    machine::Cores,
    measure::{CONNECTIONS, Measurement, Running, warm_up},
    process::Process,
    programs,
    report::{Case, Figure},
    stand_ins::StandIns,
    summary::Summary,
    targets::{Companion, WarmUp},
    tokens::Pool,
};

/// How many users count as many.
pub(crate) const USERS: usize = 100_000;

/// What one round of a case measured: label, unit, value. The same labels in each round.
type Values = Vec<(&'static str, &'static str, f64)>;

type Measure = fn(&Bench<'_>) -> Result<Values>;

const ALL: [(&str, &str, Measure); 6] = [
    ("flood", "a flood of unknown kids", flood::measure),
    ("idle", "10,000 idle connections", idle::measure),
    ("slow-clerk", "Clerk's Backend API answers after 2 s", slow_clerk::measure),
    ("reconnect", "1,000 clients connect at once after a restart", reconnect::measure),
    ("users", "10 users and 100,000 users", users::measure),
    ("many-rules", "1 rule and 1,000 rules, 10 of them matching", rules::measure),
];

/// The names of all cases.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|(name, ..)| *name)
}

/// The settings of a run.
pub(crate) struct Run<'a> {
    pub(crate) cores: &'a Cores,
    pub(crate) stand_ins: &'a StandIns,
    pub(crate) duration: Duration,
}

impl Run<'_> {
    /// Measures the cases that the options select, for each binary of the service.
    pub(crate) fn all(&self, options: &Options, services: &[Service], progress: impl Fn(&str)) -> Result<Vec<Case>> {
        let unique = self.stand_ins.unique()?;
        self.cores.use_loads()?;
        let mut cases = Vec::new();
        for (name, label, measure) in ALL.iter().filter(|(name, ..)| options.selects(name)) {
            let mut rounds = vec![Vec::new(); services.len()];
            for round in 1..=options.rounds {
                for (service, rounds) in services.iter().zip(&mut rounds) {
                    progress(&format!("{name} {round}/{} {}", options.rounds, service.name));
                    let measurement = Measurement::new(self.cores, self.duration, &unique);
                    let bench = Bench { service, stand_ins: self.stand_ins, duration: self.duration, measurement };
                    rounds.push(measure(&bench).with_context(|| (*name).to_owned())?);
                }
            }
            for (service, rounds) in services.iter().zip(&rounds) {
                let name =
                    if service.name.is_empty() { (*name).to_owned() } else { format!("{}/{name}", service.name) };
                let label =
                    if service.name.is_empty() { (*label).to_owned() } else { format!("{}: {label}", service.name) };
                cases.push(Case { name, label, figures: figures(rounds) });
            }
        }
        Ok(cases)
    }
}

fn figures(rounds: &[Values]) -> Vec<Figure> {
    let labels = rounds.first().into_iter().flatten();
    let figure = |(position, (label, unit, _)): (usize, &(&'static str, &'static str, f64))| {
        let values = rounds.iter().filter_map(|values| values.get(position)).map(|(.., value)| *value);
        Some(Figure { label: (*label).to_owned(), unit, value: Summary::of(values)? })
    };
    labels.enumerate().filter_map(figure).collect()
}

/// What a case works with.
struct Bench<'a> {
    service: &'a Service,
    stand_ins: &'a StandIns,
    duration: Duration,
    measurement: Measurement<'a>,
}

impl Bench<'_> {
    /// A fresh service.
    fn start(&self, changes: &[(&str, &str)], toml: &str) -> Result<Running> {
        self.start_beside(Companion::None, changes, toml)
    }

    fn start_beside(&self, companion: Companion, changes: &[(&str, &str)], toml: &str) -> Result<Running> {
        let program = programs::service(self.service, self.stand_ins, changes, toml);
        self.measurement.start(&program, companion)
    }

    /// Normal users, who are many and come again.
    fn normal_requests(&self) -> Result<Requests> {
        const USERS: usize = 1000;
        Ok(Requests::with_tokens(self.stand_ins.unique()?, Order::Cycle(USERS)))
    }

    /// As fast as the service answers.
    fn saturate(&self, load: &mut Load<'_>) -> Result<Slice> {
        load.run(Pace::Closed, End::After(self.duration))?.without_failures()
    }
}

/// A warm load of these requests.
fn open<'a>(process: &Process, requests: &'a Requests, before: WarmUp) -> Result<Load<'a>> {
    let mut load = Load::open(process.address(), CONNECTIONS, requests, Expected::TokenRequest)?;
    warm_up(&mut load, before)?;
    Ok(load)
}

/// The CPU time for each request, in microseconds, while a load runs.
fn cpu_us(process: &Process, load: &mut Load<'_>, end: End) -> Result<f64> {
    let before = process.cpu_ns()?;
    let slice = load.run(Pace::Closed, end)?.without_failures()?;
    Ok(to_f64(process.cpu_ns()? - before) / to_f64(slice.answers) / 1000.0)
}

/// Each token once.
fn once(pool: Arc<Pool>) -> Requests {
    Requests::with_tokens(pool, Order::Once)
}

/// A size in millions of bytes.
fn megabytes(bytes: u64) -> f64 {
    to_f64(bytes) / 1e6
}
