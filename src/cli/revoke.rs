//! `revoke`: has a running service end somebody's access, and shows its report.

use std::{
    fmt::Write as _,
    path::Path,
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use secrecy::ExposeSecret as _;
use serde::Deserialize;

use super::{Failure, complain, explain::printable, healthcheck::reachable};
use crate::{
    clock::UnixMillis,
    config::{Config, Sources},
    outgoing::causes,
    revocation::operator::{
        DenialOutcome, LiveTokenKnowledge, Report, RevocationRequestBody, TargetReport, TargetReportOutcome,
    },
    store::Subject,
};

/// Longer than the service may take, even to name thousands of targets to an Ably that is slow.
const PATIENCE: Duration = Duration::from_mins(1);

#[derive(Clone, Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    whom: Subjects,
    /// With several tenants: whose session, user or client ID it is
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// How long the denial lasts [24h]
    #[arg(long = "for", value_name = "TIME", conflicts_with = "lift")]
    lasts: Option<String>,
    /// End a denial by hand
    #[arg(long)]
    lift: bool,
    /// Change nothing, and say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Print JSON, for scripts
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
struct Subjects {
    /// A Clerk session; the user's other sessions go on
    #[arg(long, value_name = "sess_…")]
    session: Option<String>,
    /// A Clerk user, in all sessions
    #[arg(long, value_name = "user_…")]
    user: Option<String>,
    /// Whoever is known to have this client ID on Ably
    #[arg(long, value_name = "NAME")]
    client_id: Option<String>,
}

impl Arguments {
    fn order(&self) -> RevocationRequestBody {
        let Self { whom: Subjects { session, user, client_id }, tenant, lasts, lift, dry_run, .. } = self.clone();
        RevocationRequestBody { tenant, session, user, client_id, lasts, lift, dry_run }
    }
}

#[expect(clippy::print_stdout, reason = "the report is what the command is for")]
pub(super) async fn run(config: Option<&Path>, arguments: Arguments) -> ExitCode {
    let report = match ask(config, &arguments.order()).await {
        Ok(report) => report,
        Err(failure) => {
            complain(&failure);
            return ExitCode::FAILURE;
        }
    };
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report).unwrap_or_default());
    } else {
        print!("{}", printable(&as_text(&report)));
    }
    if report.complete { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn ask(config: Option<&Path>, order: &RevocationRequestBody) -> Result<Report, Failure> {
    let admin = Config::admin_only(&Sources::read(config))?;
    let Some(address) = admin.address else {
        return Err(Failure::Input(
            "the admin listener, which takes orders, is off: ADMIN_PORT is 0. Nothing is revoked".into(),
        ));
    };
    let url = format!("http://{}/revocations", reachable(address));
    let failed = |error: reqwest::Error| {
        let hint = if error.is_connect() {
            ". Nothing is revoked. Does the service run, with this ADMIN_HOST and ADMIN_PORT?"
        } else {
            ". Whether anything is revoked is not known: give the order again"
        };
        Failure::Input(format!("no answer from {url}: {}{hint}", causes(&error.without_url())))
    };
    // No proxy, and plain HTTP: to this machine, or over a network that is the operator's own.
    let client = reqwest::Client::builder().tls_certs_only([]).no_proxy().timeout(PATIENCE).build().map_err(failed)?;
    let mut request = client.post(&url).json(order);
    if let Some(token) = &admin.token {
        request = request.bearer_auth(token.expose_secret());
    }
    let response = request.send().await.map_err(failed)?;
    let status = response.status();
    let answer = response.bytes().await.map_err(failed)?;
    if !status.is_success() {
        let message = refusal(&answer).map(|message| format!(": {message}")).unwrap_or_default();
        let text = format!("{url} refuses the order with status {}{message} Nothing is revoked.", status.as_u16());
        return Err(Failure::Input(printable(&text)));
    }
    serde_json::from_slice(&answer).map_err(|_| {
        Failure::Input(format!("{url} answered what is no report: is it this service, and of this version?"))
    })
}

/// What the service says of a refusal.
fn refusal(answer: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Body {
        error: Error,
    }
    #[derive(Deserialize)]
    struct Error {
        message: String,
    }
    serde_json::from_slice(answer).ok().map(|Body { error: Error { message } }| message)
}

fn as_text(report: &Report) -> String {
    let mut lines: Vec<(&str, String, String)> = Vec::new();
    for denial in &report.denials {
        let subject = match &denial.subject {
            Subject::Session(id) => format!("session {id}"),
            Subject::User(id) => format!("user {id}"),
            Subject::Member { user, organization } => format!("user {user} in {organization}"),
            Subject::Organization(id) => format!("organization {id}"),
        };
        let (mark, text) = of_denial(denial.outcome);
        lines.push((mark, subject, text));
    }
    for revoked in &report.targets {
        let (mark, text) = of_target(revoked);
        lines.push((mark, revoked.target.clone(), text));
    }
    let width = lines.iter().map(|(_, label, _)| label.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (mark, label, what) in lines {
        let _ = writeln!(text, "{mark}  {label:width$}  {what}");
    }
    if let Some(at) = report.repeated_at {
        let _ =
            writeln!(text, "      Ably is told once more at {}, unless the denial is lifted by then.", in_words(at));
    }
    for warning in &report.warnings {
        let _ = writeln!(text, "warn  {warning}");
    }
    if let Some(reminder) = &report.reminder {
        let _ = writeln!(text, "\n{reminder}");
    }
    let _ = writeln!(text, "{}", verdict(report));
    text
}

/// The last line. Whoever mistyped an id is to notice.
fn verdict(report: &Report) -> &'static str {
    let nobody_was_denied = || report.denials.iter().all(|denial| denial.outcome == DenialOutcome::NotDenied);
    match (report.dry_run, report.complete, report.live_tokens) {
        (true, ..) => "A dry run: nothing was changed.",
        (false, false, _) => "Not all is done.",
        (false, true, Some(LiveTokenKnowledge::NoneKnown)) => "Denied. No live token was known.",
        (false, true, Some(LiveTokenKnowledge::NotNoted)) => "Denied. Which tokens are live is not noted.",
        (false, true, None) if nobody_was_denied() => "There was nothing to lift.",
        (false, true, Some(LiveTokenKnowledge::Known) | None) => "Done.",
    }
}

const OK: &str = "ok  ";
const FAIL: &str = "FAIL";
const NEITHER: &str = "    ";

fn of_denial(outcome: DenialOutcome) -> (&'static str, String) {
    match outcome {
        DenialOutcome::Denied { until } => (OK, format!("denied until {}", in_words(until))),
        DenialOutcome::DeniedHereOnly { until } => {
            let until = in_words(until);
            (
                FAIL,
                format!("denied until {until} by this replica only: Redis cannot be used; it is told when it can be"),
            )
        }
        DenialOutcome::WouldBeDenied { until } => (NEITHER, format!("would be denied until {}", in_words(until))),
        DenialOutcome::Lifted => (OK, "not denied any more".into()),
        DenialOutcome::LiftedHereOnly => {
            (FAIL, "may be denied by other replicas still: Redis cannot be used; it is told when it can be".into())
        }
        DenialOutcome::WouldBeLifted => (NEITHER, "a denial by hand would be lifted".into()),
        DenialOutcome::NotDenied => (OK, "was not denied".into()),
        DenialOutcome::DeniedByClerk => (OK, "denied still, by what Clerk told: no denial by hand is left".into()),
        DenialOutcome::Superseded => (FAIL, "unchanged: another order is newer".into()),
        DenialOutcome::StoreFull => (
            FAIL,
            "not stored: the store is full, and refuses every token until it is not; give the order again".into(),
        ),
    }
}

fn of_target(revoked: &TargetReport) -> (&'static str, String) {
    let how = if revoked.allow_reauth_margin {
        "; clients that may have a new token reconnect unnoticed"
    } else {
        "; clients are disconnected"
    };
    match revoked.outcome {
        TargetReportOutcome::Accepted { applies_at } => (OK, format!("revoked from {} on{how}", in_words(applies_at))),
        TargetReportOutcome::Refused { code: Some(code) } => {
            (FAIL, format!("Ably refuses to revoke, with code {code}: https://help.ably.io/error/{code}"))
        }
        TargetReportOutcome::Refused { code: None } => (FAIL, "Ably refuses to revoke; the log says more".into()),
        TargetReportOutcome::Unavailable => (FAIL, "Ably cannot be told now; the service goes on trying".into()),
        TargetReportOutcome::GivenUp => {
            (FAIL, "Ably cannot be told now, and the store has no room for another attempt".into())
        }
        TargetReportOutcome::NotCalled => (NEITHER, "Ably is not told".into()),
        TargetReportOutcome::WouldBeRevoked => (NEITHER, format!("would be revoked{how}")),
    }
}

/// To the second, in UTC.
fn in_words(time: UnixMillis) -> String {
    /// The last that can be written.
    const END_OF_9999: u64 = 253_402_300_799_000;
    let since_epoch = Duration::from_millis(u64::try_from(time.0).unwrap_or(0).min(END_OF_9999));
    let time: SystemTime = UNIX_EPOCH + since_epoch;
    humantime::format_rfc3339_seconds(time).to_string()
}
