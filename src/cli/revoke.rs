//! `revoke`: sends a revocation request to a running service and prints its report.

use std::{
    fmt::Write as _,
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use clap::Args;
use secrecy::ExposeSecret as _;
use serde_json::Value;

use super::{
    failure::Failure,
    listener,
    output::{Output, printable},
};
use crate::{
    clock::UnixMillis,
    config::{AdminConfig, Config, Sources},
    outgoing::causes,
    revocation::operator::{
        DenialOutcome, LiveTokenKnowledge, RevocationReport, RevocationRequestBody, TargetReport, TargetReportOutcome,
    },
};

/// Longer than the service needs to revoke thousands of targets at a slow Ably.
const TIMEOUT: Duration = Duration::from_mins(1);

#[derive(Clone, Debug, Args)]
pub(super) struct RevokeArguments {
    #[command(flatten)]
    request: RevocationRequestBody,
    /// Print the report as JSON, for scripts
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(
    config: Option<&Path>,
    RevokeArguments { request, json }: RevokeArguments,
) -> Result<Output, Failure> {
    let admin = Config::admin_only(&Sources::read(config))?;
    let report = send(&admin, &request).await.map_err(|error| Failure::Other(printable(&error)))?;
    let text = if json {
        serde_json::to_string_pretty(&report).unwrap_or_default() + "\n"
    } else {
        printable(&as_text(&report))
    };
    Ok(Output { text, has_failed: !report.complete })
}

async fn send(admin: &AdminConfig, request: &RevocationRequestBody) -> Result<RevocationReport, String> {
    let address = admin.address.ok_or("the admin listener is off: ADMIN_PORT is 0. Nothing is revoked")?;
    let url = listener::url(address, "/revocations");
    let post = async {
        let mut post = listener::client(TIMEOUT)?.post(&url).json(request);
        if let Some(token) = &admin.token {
            post = post.bearer_auth(token.expose_secret());
        }
        let response = post.send().await?;
        Ok((response.status(), response.bytes().await?))
    };
    let (status, body) = post.await.map_err(|error: reqwest::Error| {
        let hint = if error.is_connect() {
            "Nothing is revoked. Does the service run with this ADMIN_HOST and ADMIN_PORT?"
        } else {
            "It is unknown whether anything is revoked: send the request again"
        };
        format!("no answer from {url}: {}. {hint}", causes(&error.without_url()))
    })?;
    if !status.is_success() {
        let error = serde_json::from_slice::<Value>(&body).unwrap_or_default();
        let message = error.pointer("/error/message").and_then(Value::as_str);
        let message = message.map(|message| format!(": {}", message.trim_end_matches('.'))).unwrap_or_default();
        let status = status.as_u16();
        let effect = if status < 500 { " Nothing is revoked." } else { "" };
        return Err(format!("{url} refused the request with status {status}{message}.{effect}"));
    }
    serde_json::from_slice(&body)
        .map_err(|_| format!("{url} did not answer with a report: is it this service, in this version?"))
}

fn as_text(report: &RevocationReport) -> String {
    let denials = report.denials.iter().map(|denial| {
        let is_done = denial.outcome != DenialOutcome::Superseded;
        (Some(is_done), denial.subject.to_string(), denial_text(denial.outcome))
    });
    let has_several_keys = report.targets.windows(2).any(|two| two[0].key_name != two[1].key_name);
    let targets = report.targets.iter().map(|target| {
        let called = target.outcome.filter(|outcome| *outcome != TargetReportOutcome::NotCalled);
        let TargetReport { target: label, key_name, .. } = target;
        let label = if has_several_keys { format!("{label} by {key_name}") } else { label.clone() };
        (called.map(|outcome| outcome.is_done()), label, target_text(target, report.live_tokens))
    });
    let lines: Vec<_> = denials.chain(targets).collect();
    let width = lines.iter().map(|(_, label, _)| label.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (is_done, label, outcome) in lines {
        let mark = match is_done {
            _ if report.dry_run => "dry ",
            Some(true) => "ok  ",
            Some(false) => "FAIL",
            None => "    ",
        };
        _ = writeln!(text, "{mark}  {label:width$}  {outcome}");
    }
    if let Some(at) = report.repeated_at {
        _ = writeln!(text, "      Ably revokes once more at {}, unless the denial has ended by then.", utc(at));
    }
    for warning in &report.warnings {
        _ = writeln!(text, "warn  {warning}");
    }
    if let Some(reminder) = &report.reminder {
        _ = writeln!(text, "\n{reminder}");
    }
    text + last_line(report) + "\n"
}

/// Shows an operator who mistyped an ID that no live token is known for it.
fn last_line(report: &RevocationReport) -> &'static str {
    let was_anything_denied = report.denials.iter().any(|denial| denial.outcome != DenialOutcome::NotDenied);
    match (report.dry_run, report.complete, report.live_tokens) {
        (true, ..) => "A dry run: nothing was changed.",
        (false, false, _) => "Not everything is done.",
        (false, true, Some(LiveTokenKnowledge::NoneKnown)) => "Denied. No live token was known.",
        (false, true, Some(LiveTokenKnowledge::NotNoted)) => "Denied. Live tokens are not recorded.",
        (false, true, None) if !was_anything_denied => "There was nothing to lift.",
        (false, true, Some(LiveTokenKnowledge::Known) | None) => "Done.",
    }
}

fn denial_text(outcome: DenialOutcome) -> String {
    match outcome {
        DenialOutcome::Denied { until } => format!("denied until {}", utc(until)),
        DenialOutcome::Lifted => "no longer denied".into(),
        DenialOutcome::NotDenied => "was not denied".into(),
        DenialOutcome::DeniedByClerk => "still denied, by an event from Clerk".into(),
        DenialOutcome::Superseded => "unchanged: another request is newer".into(),
    }
}

fn target_text(target: &TargetReport, live_tokens: Option<LiveTokenKnowledge>) -> String {
    let clients = if target.allow_reauth_margin {
        "clients that may have a new token reconnect unnoticed"
    } else {
        "clients are disconnected"
    };
    match target.outcome {
        Some(TargetReportOutcome::Accepted { applies_at }) => format!("revoked from {} on; {clients}", utc(applies_at)),
        Some(TargetReportOutcome::Refused { code: Some(code) }) => {
            format!("Ably refuses to revoke, with code {code}: https://help.ably.io/error/{code}")
        }
        Some(TargetReportOutcome::Refused { code: None }) => "Ably refuses to revoke; the log has the cause".into(),
        Some(TargetReportOutcome::Unavailable) => "not revoked yet; the service retries".into(),
        None if live_tokens != Some(LiveTokenKnowledge::NotNoted) => format!("revoked; {clients}"),
        Some(TargetReportOutcome::NotCalled) | None => "Ably is not called".into(),
    }
}

/// In UTC, to the second, at most the last second of the year 9999.
fn utc(time: UnixMillis) -> String {
    let since_epoch = Duration::from_millis(u64::try_from(time.0).unwrap_or(0).min(253_402_300_799_000));
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since_epoch).to_string()
}
