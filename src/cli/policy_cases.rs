//! `check --policy-tests`: runs an operator's own tests of the policy, without network or keys.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    fs,
    path::Path,
};

use serde_json::Number;

use super::{
    failure::Failure,
    output::{Output, in_words},
};
use crate::{
    ably::{Capability, Operations, Ttl},
    clerk::Examined,
    clock::UnixMillis,
    config::{Case, Config, Expected, ExpectedGrant, PolicyUnderTest, Sources},
    identity::Identity,
    issuer::{ClaimsOrigin, Explainer, TokenExplanation},
    refusal::{Refusal, Row},
};

pub(super) async fn run(config: Option<&Path>, file: &Path) -> Result<Output, Failure> {
    let policies = Config::policies_only(&Sources::read(config))?;
    let path = file.display().to_string();
    let text = fs::read_to_string(file).map_err(|error| Failure::Other(format!("{path} cannot be read: {error}")))?;
    let cases = Case::parse_all(&text, &path, &policies)?;
    let mut text = String::new();
    let mut failed = 0;
    for case in &cases {
        let differences = differences(case).await;
        let has_passed = differences.0.is_empty();
        failed += usize::from(!has_passed);
        _ = write!(text, "{}  {}\n{differences}", if has_passed { "ok  " } else { "FAIL" }, case.name);
    }
    _ = writeln!(text, "{} passed, {failed} failed", cases.len() - failed);
    Ok(Output { text, has_failed: failed > 0 })
}

async fn differences(case: &Case<'_>) -> Differences {
    let PolicyUnderTest { policy, token, .. } = case.policy;
    let now = UnixMillis::now();
    let examined = Examined::from_claims(case.claims.clone(), now);
    let identity = Identity::new(token.client_id.clone(), None);
    let explainer = Explainer { identity: &identity, policy, jwt_key: None };
    let explained = explainer.explain(&examined, ClaimsOrigin::File, &case.params, now).await;
    let refusal = explained.as_ref().map_or(examined.refused.map(Refusal::from), |explained| explained.refusal);
    match (&case.expected, refusal.as_ref().map(Refusal::row), explained) {
        (Expected::Granted(expected), None, Some(explained)) => compare_grants(expected, explained),
        (Expected::Refused(code), Some(got), _) if got.code == *code => Differences::default(),
        (expected, got, _) => {
            let expected = match expected {
                Expected::Refused(code) => format!("refused, {code}"),
                Expected::Granted(_) => "a token".to_owned(),
            };
            let got = got.map(|Row { code, message, .. }| format!("refused, {code}: {message}"));
            let mut differences = Differences::default();
            differences.compare("outcome", Some(&expected), Some(got.as_deref().unwrap_or("a token")));
            differences
        }
    }
}

fn compare_grants(expected: &ExpectedGrant, got: TokenExplanation) -> Differences {
    let ExpectedGrant { capability, ttl, client_id, channel_claims, publish_rate } = expected;
    let grant = got.policy.outcome.unwrap_or_default();
    let mut differences = Differences::default();
    let kind = |capability: &Option<Capability>| if capability.is_some() { "resources" } else { "the key's own" };
    differences.compare("capability", Some(kind(capability)), Some(kind(&grant.capability)));
    differences.compare_tables("", &operations(capability.as_ref()), &operations(grant.capability.as_ref()));
    if let Some(ttl) = ttl {
        let got = grant.ttl.unwrap_or(Ttl::ABLY_DEFAULT);
        differences.compare("ttl", Some(&in_words(*ttl)), Some(&in_words(got)));
    }
    if let Some(client_id) = client_id {
        let got = got.client_id.map_or_else(|error| format!("none: {error}"), |id| id.to_string());
        differences.compare("client_id", Some(client_id), Some(&got));
    }
    if let Some(channel_claims) = channel_claims {
        differences.compare_tables("channel_claims ", channel_claims, &grant.channel_claims);
    }
    if let Some(publish_rate) = publish_rate {
        differences.compare_tables("publish_rate ", &rates(publish_rate), &rates(&grant.publish_rate));
    }
    differences
}

/// The operations of each resource.
fn operations(capability: Option<&Capability>) -> BTreeMap<String, String> {
    let resources = capability.into_iter().flat_map(Capability::resources);
    let in_words = |operations: Operations| operations.names().collect::<Vec<_>>().join(", ");
    resources.map(|(resource, operations)| (resource.to_owned(), in_words(operations))).collect()
}

/// The rates, of which 5 and 5.0 are the same.
fn rates(rates: &BTreeMap<String, Number>) -> BTreeMap<String, String> {
    let in_words = |rate: &Number| rate.as_f64().map_or_else(|| rate.to_string(), |rate| rate.to_string());
    rates.iter().map(|(resource, rate)| (resource.clone(), in_words(rate))).collect()
}

/// The parts of a token that differ from what a case expects: their names, what is expected, and what the session gets.
#[derive(Default)]
struct Differences(Vec<[String; 3]>);

impl Differences {
    fn compare(&mut self, what: &str, expected: Option<&str>, got: Option<&str>) {
        if expected != got {
            self.0.push([what, expected.unwrap_or("nothing"), got.unwrap_or("nothing")].map(str::to_owned));
        }
    }

    fn compare_tables(&mut self, prefix: &str, expected: &BTreeMap<String, String>, got: &BTreeMap<String, String>) {
        for key in expected.keys().chain(got.keys()).collect::<BTreeSet<_>>() {
            let [expected, got] = [expected, got].map(|table| table.get(key).map(String::as_str));
            self.compare(&format!("{prefix}{key}"), expected, got);
        }
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| self.0.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
        let [what_width, expected_width] = [0, 1].map(width);
        for [what, expected, got] in &self.0 {
            writeln!(f, "        {what:what_width$}  expected {expected:expected_width$}  got {got}")?;
        }
        Ok(())
    }
}
