use std::collections::{BTreeMap, BTreeSet};

use super::*;

fn refused(status: u16, code: u32) -> Refusal {
    Refusal::AblyRefused(AblyRefusal { status, code, retry_after: None })
}

#[test]
fn ablys_verdict_passes_unless_it_is_on_the_service_itself() {
    for ((status, code), expected) in [
        ((400, 40000), (400, 40000)),
        ((400, 40003), (400, 40003)),
        ((400, 40012), (400, 40012)),
        ((403, 40300), (403, 40300)),
        ((403, 40160), (403, 40160)),
        ((404, 40400), (404, 40400)),
        ((429, 42910), (429, 42910)),
        ((500, 50000), (500, 50000)),
        ((503, 50320), (503, 50320)),
        ((401, 40101), (503, 50003)),
        ((401, 40104), (503, 50003)),
        ((401, 40105), (503, 50003)),
        ((401, 40160), (503, 50003)),
        ((400, 40102), (503, 50003)),
        ((403, 40171), (503, 50003)),
        ((403, 40140), (503, 50003)),
        ((400, 40149), (503, 50003)),
        ((400, 40150), (400, 40150)),
        ((400, 40139), (400, 40139)),
    ] {
        let row = refused(status, code).row();
        assert_eq!((row.status, row.code), expected, "{status} {code}");
        assert!(row.message.is_ascii());
    }
}

#[test]
fn asking_again_is_advised_where_it_helps() {
    let (soon, wait) = (Some(Duration::from_secs(5)), Some(Duration::from_secs(9)));
    let after =
        |status, code, retry_after| Refusal::AblyRefused(AblyRefusal { status, code, retry_after }).row().retry_after;
    assert_eq!(after(429, 42910, wait), wait);
    assert_eq!(after(503, 50003, wait), wait);
    assert_eq!(after(429, 42910, None), soon);
    assert_eq!(after(503, 50003, Some(Duration::MAX)), Some(Duration::from_mins(1)));
    assert_eq!(after(400, 40000, wait), None);
    assert_eq!(after(400, 40000, None), None);
    for (status, code) in [(500, 50000), (401, 40101)] {
        assert_eq!(after(status, code, None), soon);
    }
    assert_eq!(Refusal::AblyUnavailable.row().retry_after, soon);
}

/// What a client is told when its user is signed out.
#[test]
fn only_a_signed_out_user_is_told_to_stop_asking() {
    for (cause, status) in [
        (NoCredential::Missing, 403),
        (NoCredential::SignedOut, 403),
        (NoCredential::SessionCookieMissing, 401),
        (NoCredential::DevBrowserMissing, 401),
        (NoCredential::Ambiguous, 401),
        (NoCredential::OlderThanClient, 401),
    ] {
        assert_eq!(Refusal::NoCredential(cause, SignedOut::Fail).row().status, status, "{cause:?}");
        assert_eq!(Refusal::NoCredential(cause, SignedOut::Retry).row().status, 401, "{cause:?}");
    }
}

#[test]
fn every_message_is_ascii_and_fits_a_header() {
    for (reason, _, _, message) in ROWS {
        assert!(message.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{message}");
        assert!(message.ends_with(['.', '?']), "{message}");
        assert!(reason.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{reason}");
    }
}

/// An SDK takes these for Ably's own verdict on its token, or fails for good.
#[test]
fn no_row_has_a_code_that_an_sdk_would_misread() {
    for (reason, _, code, _) in ROWS {
        assert!(!matches!(code, 40102 | 40140..=40149 | 40171), "{reason}");
    }
}

type Answers = BTreeMap<String, BTreeSet<(u16, u32)>>;

/// The statuses and codes of each reason in the code.
fn answers() -> Answers {
    let mut answers = Answers::new();
    for (reason, status, code, _) in ROWS {
        answers.entry((*reason).to_owned()).or_default().insert((*status, *code));
    }
    answers
}

/// The reasons whose answer the value decides: another status when clients are told to stop asking, or Ably's own.
const CARRIED: [&str; 3] = ["session-token-missing", "client-uat-signed-out", "ably-refused"];

#[test]
fn the_documentation_has_a_row_for_each_reason() {
    let document = include_str!("../../docs/errors.md");
    let mut documented = BTreeMap::new();
    for row in document.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let numbers = |cell: &str| -> BTreeSet<u32> {
            cell.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
        };
        let [reason, status, code, ..] = cells[..] else { panic!("{row}") };
        let known = documented.insert(reason.trim_matches('`').to_owned(), (numbers(status), numbers(code)));
        assert_eq!(known, None, "{reason} stands twice");
    }
    let answers = answers();
    assert_eq!(documented.keys().collect::<Vec<_>>(), answers.keys().collect::<Vec<_>>());
    for (reason, answers) in &answers {
        let (statuses, codes) = &documented[reason];
        let in_code: (BTreeSet<_>, BTreeSet<_>) =
            answers.iter().map(|(status, code)| (u32::from(*status), *code)).unzip();
        if CARRIED.contains(&&**reason) {
            assert!(in_code.0.is_subset(statuses) && in_code.1.is_subset(codes), "{reason}");
        } else {
            assert_eq!((statuses, codes), (&in_code.0, &in_code.1), "{reason}");
        }
    }
}

/// The reasons without an example in the contract: those of the admin listener, which it does not cover, and those whose
/// answer has the status and code of an example beside them.
const WITHOUT_EXAMPLE: &[&str] = &[
    "admin-token-missing",
    "admin-token-not-set",
    "admin-token-wrong",
    "from-a-page",
    "host-unknown",
    "jwt-too-large",
    "metrics-not-written",
    "not-a-request",
    "not-json",
    "revocation-request-broken-off",
    "revocation-request-invalid",
    "revocation-request-not-stored",
    "store-full",
    "token-invalid-actor",
    "token-invalid-algorithm",
    "token-invalid-crit",
    "token-invalid-features",
    "token-invalid-kid",
    "token-issued-in-the-future",
    "token-missing-expiration",
    "token-missing-issued-at",
    "token-missing-session-id",
    "webhook-body-refused",
    "webhook-broken-off",
    "webhook-headers-missing",
    "webhook-invalid-timestamp",
    "webhook-not-stored",
];

/// The refusals among the examples of the contract are rows of the table, and each public reason is among them.
#[test]
fn the_contract_quotes_refusals_as_they_are() {
    let contract: Vec<_> = include_str!("../../openapi.yaml").lines().map(str::trim).collect();
    let mut quoted = BTreeSet::new();
    for [code, status, message] in contract.array_windows() {
        let Some(message) = message.strip_prefix("message: \"") else { continue };
        let (message, reason) = message.trim_end_matches('"').rsplit_once(" (").unwrap();
        let reason = reason.trim_end_matches(')');
        let number = |line: &str, name| line.strip_prefix(name).unwrap().parse::<u32>().unwrap();
        let (code, status) = (number(code, "code: "), number(status, "statusCode: "));
        let is_row = |row: &&(&str, u16, u32, &str)| row.0 == reason && row.3 == message;
        match ROWS.iter().find(is_row) {
            _ if reason == "ably-refused" => assert_eq!((message, status), (ably_message(code, 429), 429), "{reason}"),
            Some(_) if CARRIED.contains(&reason) && status == 403 => assert_eq!(code, code::FORBIDDEN, "{reason}"),
            row => assert_eq!(row.map(|row| (u32::from(row.1), row.2)), Some((status, code)), "{reason}: {message}"),
        }
        quoted.insert(reason);
    }
    let without_example: Vec<_> = answers().into_keys().filter(|reason| !quoted.contains(&**reason)).collect();
    assert_eq!(without_example, WITHOUT_EXAMPLE);
}
