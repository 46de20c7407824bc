//! `check --policy-tests`: runs an operator's own tests of the policy. No network, no keys.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use serde_json::Number;

use super::{Failure, complain};
use crate::{
    ably::{Capability, Ttl},
    clerk::Examined,
    clock::UnixMillis,
    config::{Case, Config, Expected, PolicyTests, PolicyUnderTest, Sources},
    identity::Identity,
    issuer::{Claims, Explainer},
    refusal::{Refusal, Row},
};

/// One line of a diff.
struct Difference {
    what: String,
    expected: String,
    got: String,
}

#[expect(clippy::print_stdout, reason = "the report is what the command is for")]
pub(super) async fn run(config: Option<&Path>, file: &Path) -> ExitCode {
    match report(config, file).await {
        Ok((report, exit_code)) => {
            print!("{report}");
            exit_code
        }
        Err(failure) => {
            complain(&failure);
            ExitCode::FAILURE
        }
    }
}

async fn report(config: Option<&Path>, file: &Path) -> Result<(String, ExitCode), Failure> {
    let PolicyTests(cases) = PolicyTests::read(file)?;
    let policies = Config::policies_only(&Sources::read(config))?;
    let cases = cases.iter().map(|case| Ok((case, under_test(&policies, case)?)));
    let cases: Vec<(&Case, &PolicyUnderTest)> = cases.collect::<Result<_, Failure>>()?;
    PolicyTests::fit(cases.iter().map(|(case, policy)| (*case, policy.token.format)))?;
    let mut report = String::new();
    let mut failed = 0;
    for (case, policy) in &cases {
        let differences = differences(policy, case).await;
        if differences.is_empty() {
            _ = writeln!(report, "ok    {}", case.name);
        } else {
            failed += 1;
            _ = writeln!(report, "FAIL  {}", case.name);
            render(&differences, &mut report);
        }
    }
    _ = writeln!(report, "{} passed, {failed} failed", cases.len() - failed);
    Ok((report, if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }))
}

/// The policy that a case is for.
fn under_test<'a>(policies: &'a [PolicyUnderTest], case: &Case) -> Result<&'a PolicyUnderTest, Failure> {
    let names = || policies.iter().map(|policy| policy.tenant.as_str()).collect::<Vec<_>>().join(", ");
    match (policies, &case.tenant) {
        ([only], None) => Ok(only),
        (_, None) => Err(Failure::Input(format!(
            "[[cases]] {:?} does not say whose policy it is for; add tenant = one of: {}",
            case.name,
            names()
        ))),
        (_, Some(name)) => policies.iter().find(|policy| policy.tenant == *name).ok_or_else(|| {
            Failure::Input(format!("[[cases]] {:?}: no tenant is called {name}; there are: {}", case.name, names()))
        }),
    }
}

fn render(differences: &[Difference], report: &mut String) {
    let width = |text: fn(&Difference) -> &str| {
        differences.iter().map(|difference| text(difference).chars().count()).max().unwrap_or_default()
    };
    let (what_width, expected_width) = (width(|difference| &difference.what), width(|difference| &difference.expected));
    for Difference { what, expected, got } in differences {
        _ = writeln!(report, "        {what:what_width$}  expected {expected:expected_width$}  got {got}");
    }
}

/// How what a case gets differs from what it expects.
async fn differences(PolicyUnderTest { policy, token, .. }: &PolicyUnderTest, case: &Case) -> Vec<Difference> {
    let now = UnixMillis::now();
    let examined = Examined::from_claims(case.claims.clone(), now);
    let Some(session) = &examined.session else {
        let refusal = examined.refused.map(Refusal::from);
        return compare_refusals(&case.expected, refusal.as_ref());
    };
    let identity = Identity::new(token.client_id.clone(), None);
    let explainer = Explainer { identity: &identity, policy, format: token.format, api_key: None };
    let explained = explainer.explain(&examined, session, Claims::Some, &case.params, now).await;
    let (None, Ok(grant), Expected::Granted { capability, ttl, client_id, channel_claims, publish_rate }) =
        (&explained.refusal, &explained.policy.outcome, &case.expected)
    else {
        return compare_refusals(&case.expected, explained.refusal.as_ref());
    };
    let mut differences = compare_capabilities(capability.as_ref(), grant.capability.as_ref());
    let got = grant.ttl.unwrap_or(Ttl::ABLY_DEFAULT);
    if let Some(ttl) = ttl.filter(|ttl| *ttl != got) {
        differences.push(Difference { what: "ttl".into(), expected: in_words(ttl), got: in_words(got) });
    }
    if let Some(expected) = client_id {
        let got = explained.client_id.map_or_else(|error| format!("none: {error}"), |id| id.to_string());
        if got != *expected {
            differences.push(Difference { what: "client_id".into(), expected: expected.clone(), got });
        }
    }
    if let Some(expected) = channel_claims {
        let is_same = |expected: &String, got: &String| expected == got;
        differences.extend(compare_by_resource("channel_claims", expected, &grant.channel_claims, is_same));
    }
    if let Some(expected) = publish_rate {
        let is_same = |expected: &Number, got: &Number| expected.as_f64() == got.as_f64();
        differences.extend(compare_by_resource("publish_rate", expected, &grant.publish_rate, is_same));
    }
    differences
}

/// Where two tables of what only a JWT carries differ.
fn compare_by_resource<T: fmt::Display>(
    key: &str,
    expected: &BTreeMap<String, T>,
    got: &BTreeMap<String, T>,
    is_same: impl Fn(&T, &T) -> bool,
) -> Vec<Difference> {
    let in_words = |value: Option<&T>| value.map_or_else(|| "nothing".to_owned(), T::to_string);
    let resources: BTreeSet<_> = expected.keys().chain(got.keys()).collect();
    let differ = resources.into_iter().filter_map(|resource| {
        let (expected, got) = (expected.get(resource), got.get(resource));
        let is_same = expected.zip(got).is_some_and(|(expected, got)| is_same(expected, got));
        let what = format!("{key} {resource}");
        (!is_same).then(|| Difference { what, expected: in_words(expected), got: in_words(got) })
    });
    differ.collect()
}

fn compare_refusals(expected: &Expected, got: Option<&Refusal>) -> Vec<Difference> {
    let got = got.map(Refusal::row);
    let expected = match expected {
        Expected::Refused(code) if got.is_some_and(|got| got.code == *code) => return Vec::new(),
        Expected::Refused(code) => format!("refused, {code}"),
        Expected::Granted { .. } => "a token".to_owned(),
    };
    let got =
        got.map_or_else(|| "a token".to_owned(), |Row { code, message, .. }| format!("refused, {code}: {message}"));
    vec![Difference { what: "outcome".into(), expected, got }]
}

fn compare_capabilities(expected: Option<&Capability>, got: Option<&Capability>) -> Vec<Difference> {
    let mut resources: BTreeMap<&str, [String; 2]> = BTreeMap::new();
    for (side, capability) in [expected, got].into_iter().enumerate() {
        let Some(capability) = capability else { continue };
        for (resource, operations) in capability.resources() {
            resources.entry(resource).or_default()[side] = operations.names().collect::<Vec<_>>().join(", ");
        }
    }
    let or_nothing = |text: String| if text.is_empty() { "nothing".to_owned() } else { text };
    let differ = |(resource, [expected, got]): (&str, [String; 2])| {
        let (expected, got) = (or_nothing(expected), or_nothing(got));
        (expected != got).then(|| Difference { what: resource.to_owned(), expected, got })
    };
    let whole = |capability: Option<&Capability>| {
        if capability.is_some() { "resources".to_owned() } else { "the key's own".to_owned() }
    };
    let mut differences = Vec::new();
    if expected.is_none() != got.is_none() {
        differences.push(Difference { what: "capability".into(), expected: whole(expected), got: whole(got) });
    }
    differences.extend(resources.into_iter().filter_map(differ));
    differences
}

pub(super) fn in_words(ttl: Ttl) -> String {
    humantime::format_duration(Duration::from_millis(ttl.as_millis())).to_string()
}
