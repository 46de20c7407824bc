//! Counts the instructions that the service executes for one token, without HTTP, and compares the counts with the committed
//! ones.
//!
//! `make instructions` runs it. The program starts itself under valgrind's callgrind, once for each case: with session
//! tokens that the service has not seen, and with the same ones again. Each count is the average of many tokens, so the
//! random seeds of hash maps hardly change it. Some code is left out of the count, as it depends on the processor:
//! see [`callgrind`].

mod callgrind;
mod figures;
#[path = "../../micro/fixtures.rs"]
mod fixtures;

use std::{
    env,
    error::Error,
    hint::black_box,
    io::{self, Read as _, Write as _},
    process::ExitCode,
};

use ably_clerk_auth::clock::UnixMillis;
use figures::{Counts, Figures};
use fixtures::{Instance, Request, Service};
use serde::{Deserialize, Serialize};

/// Rules as in the README, and one by metadata.
const POLICY: &str = r#"
[[grants]]
name = "everyone"
capability = { "chat:*" = ["subscribe", "publish"], "inbox:{user_id}" = ["subscribe"] }

[[grants]]
name = "organization admins"
when = { role = "org:admin" }
capability = { "org:{org_id}:*" = ["*"] }

[[grants]]
name = "paying teams"
when = { claim = { "metadata.tier" = ["pro", "team"] } }
capability = { "team:{claim.metadata.team}:*" = ["subscribe", "publish", "presence"] }
"#;

/// The argument with which the program issues tokens to be counted.
const ISSUE: &str = "issue";

/// What a process under callgrind does, sent to its standard input.
#[derive(Serialize, Deserialize)]
struct Work {
    settings: String,
    now: i64,
    /// Answered first: caches fill, and what is made once is made.
    uncounted: Vec<Request>,
    counted: Vec<Request>,
}

fn main() -> ExitCode {
    let outcome = match env::args().nth(1).as_deref() {
        None => count(),
        Some(ISSUE) => issue().map(|()| ExitCode::SUCCESS),
        Some(other) => Err(format!("unknown argument {other}; this program takes none").into()),
    };
    outcome.unwrap_or_else(|error| {
        let _ = writeln!(io::stderr(), "instructions: {error}");
        ExitCode::FAILURE
    })
}

/// Counts each case, and compares the counts with the committed ones or replaces these.
fn count() -> Result<ExitCode, Box<dyn Error>> {
    let instance = Instance::start()?;
    let mut counts = Counts::new();
    for (name, place) in
        [("header", Instance::request_with_header as fn(&_) -> _), ("cookies", Instance::request_with_cookies)]
    {
        let requests = |number: usize| (0..number).map(|_| place(&instance)).collect::<Vec<_>>();
        let first_use = Work::new(&instance, requests(200), requests(1000));
        let seen = requests(100);
        // Of each user fewer than a burst.
        let again = seen.iter().cycle().take(1000).cloned().collect();
        let repeated = Work::new(&instance, seen, again);
        for (case, work) in [("first_use", first_use), ("repeated", repeated)] {
            let instructions = callgrind::count(&[ISSUE], "issue_counted", &serde_json::to_vec(&work)?)?;
            counts.insert(format!("{case}_in_{name}"), instructions / work.counted.len() as u64);
        }
    }
    let committed = Figures::read()?;
    let mut out = io::stdout();
    if env::var_os("UPDATE").is_some_and(|update| !update.is_empty()) {
        committed.with(counts).write()?;
        writeln!(out, "{} has the new counts. Commit it.", Figures::FILE)?;
        return Ok(ExitCode::SUCCESS);
    }
    let comparison = committed.compare(&counts);
    write!(out, "{comparison}")?;
    Ok(if comparison.passes() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Work {
    fn new(instance: &Instance, uncounted: Vec<Request>, counted: Vec<Request>) -> Self {
        Self { settings: instance.settings(POLICY), now: UnixMillis::now().0, uncounted, counted }
    }
}

/// Does the work on standard input.
fn issue() -> Result<(), Box<dyn Error>> {
    let mut work = Vec::new();
    io::stdin().read_to_end(&mut work)?;
    let Work { settings, now, uncounted, counted } = serde_json::from_slice(&work)?;
    let service = Service::new(&settings)?;
    answer_all(&service, &uncounted, UnixMillis(now));
    issue_counted(&service, &counted, UnixMillis(now));
    Ok(())
}

/// Callgrind counts while this function runs, and knows it by its name.
#[inline(never)]
fn issue_counted(service: &Service, requests: &[Request], now: UnixMillis) {
    answer_all(service, requests, black_box(now));
}

fn answer_all(service: &Service, requests: &[Request], now: UnixMillis) {
    for request in requests {
        black_box(service.answer(black_box(request), now));
    }
}
