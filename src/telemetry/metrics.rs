//! The service's metrics, in Prometheus' text format. `docs/metrics.md` explains each.
//!
//! A service has one [`Metrics`]. Its parts record through handles, which look their counters up once. No label holds a
//! value that a request could choose: each combination of labels is a series that is kept forever.

use std::{
    fmt::{self, Write as _},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{
        EncodeLabelSet, EncodeLabelValue, EncodeMetric, LabelValueEncoder, MetricEncoder,
        prometheus_text::{CONTENT_TYPE, encode},
    },
    metrics::{MetricType, TypedMetric, counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::{
    ably::{ExchangeCounts, RevocationCounts, TokenFormat},
    clerk::{LookupCounts, RefreshCounts},
    clock::{ClockWatch, UnixMillis},
};

const PREFIX: &str = "ably_clerk_auth";

/// The outcomes of a webhook.
const WEBHOOK_OUTCOMES: [&str; 5] = ["applied", "outdated", "ignored", "postponed", "malformed"];

/// All metrics of a service.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    families: Arc<Families>,
}

#[derive(Debug, Default)]
struct Families {
    tokens_issued: Family<Format, Counter>,
    token_refusals: Family<TokenRefusal, Counter>,
    token_durations: Family<TenantOutcome, Durations>,
    policy_rules: Family<TenantLabels, Gauge>,
    signing_key_refreshes: Family<TenantOutcome, Counter>,
    signing_keys_confirmed: Family<TenantLabels, Gauge>,
    user_lookups: Family<TenantOutcome, Counter>,
    ably_exchanges: Family<TenantOutcome, Counter>,
    clock_offsets: Family<Vendor, Gauge<f64, AtomicU64>>,
    webhooks: Family<TenantOutcome, Counter>,
    revocations: Family<TenantOutcome, Counter>,
    policy_reloads: Family<Outcome, Counter>,
    policy_last_reload_successful: Gauge,
    policy_last_taken: Gauge,
    request_refusals: Family<RequestRefusal, Counter>,
    requests_in_flight: Gauge,
    connections: Gauge,
    connections_closed: Family<Reason, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct TenantLabel(Arc<str>);

impl EncodeLabelValue for TenantLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(&self.0)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TenantLabels {
    tenant: TenantLabel,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TenantOutcome {
    tenant: TenantLabel,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Vendor {
    tenant: TenantLabel,
    vendor: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Format {
    tenant: TenantLabel,
    format: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TokenRefusal {
    tenant: TenantLabel,
    reason: &'static str,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestRefusal {
    reason: &'static str,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

/// A histogram of durations from a signature alone to a call with its retry.
#[derive(Clone, Debug)]
struct Durations(Histogram);

impl Default for Durations {
    fn default() -> Self {
        Self(Histogram::new([
            0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
        ]))
    }
}

impl TypedMetric for Durations {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Durations {
    fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result {
        self.0.encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl Metrics {
    /// The content type of [`exposition`](Self::exposition).
    pub const CONTENT_TYPE: &str = CONTENT_TYPE;

    /// The label `tenant` of requests without a known tenant: empty, which Prometheus takes for no label.
    pub const NO_TENANT: &str = "";

    /// The metrics of a process that starts now, with the policy of its start.
    #[must_use]
    pub fn new(now: UnixMillis) -> Self {
        let build = Family::<Build, Gauge>::default();
        build.get_or_create(&Build { version: env!("CARGO_PKG_VERSION") }).set(1);
        let started: Gauge = Gauge::default();
        started.set(seconds(now));
        let families = Families::default();
        families.policy_last_reload_successful.set(1);
        families.policy_last_taken.set(seconds(now));
        let mut registry = Registry::default();
        // The standard name, which dashboards and alerts know.
        registry.register("process_start_time_seconds", "When the process started", started);
        let ours = registry.sub_registry_with_prefix(PREFIX);
        ours.register("build_info", "The version that runs; always 1", build);
        families.register(ours);
        Self { registry, families: Arc::new(families) }
    }

    /// Adds metrics that `collector` reads whenever they are asked for.
    pub fn register(&mut self, collector: Box<dyn Collector>) {
        self.registry.sub_registry_with_prefix(PREFIX).register_collector(collector);
    }

    /// All metrics, as they are now.
    pub fn exposition(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// The metrics of a tenant.
    #[must_use]
    pub fn tenant(&self, name: &str) -> TenantMetrics {
        let families = &self.families;
        let tenant = TenantLabel(name.into());
        let outcome = |outcome| TenantOutcome { tenant: tenant.clone(), outcome };
        let format = |format: TokenFormat| {
            let labels = Format { tenant: tenant.clone(), format: format.as_str() };
            families.tokens_issued.get_or_create_owned(&labels)
        };
        for known in WEBHOOK_OUTCOMES {
            drop(families.webhooks.get_or_create_owned(&outcome(known)));
        }
        let clock = |vendor| {
            let (families, labels) = (Arc::clone(families), Vendor { tenant: tenant.clone(), vendor });
            // No series before the first offset: 0 would mean that the clock is right.
            ClockWatch::new(name, vendor, move |offset| {
                families.clock_offsets.get_or_create(&labels).set(offset.seconds());
            })
        };
        TenantMetrics(Arc::new(TenantSeries {
            clerk_clock: clock("clerk"),
            ably_clock: clock("ably"),
            families: Arc::clone(families),
            token_requests: format(TokenFormat::TokenRequest),
            jwts: format(TokenFormat::Jwt),
            token_details: format(TokenFormat::TokenDetails),
            issued_in: families.token_durations.get_or_create_owned(&outcome("issued")).0,
            refused_in: families.token_durations.get_or_create_owned(&outcome("refused")).0,
            rules: families.policy_rules.get_or_create_owned(&TenantLabels { tenant: tenant.clone() }),
            tenant,
        }))
    }

    /// The metrics of reloads.
    #[must_use]
    pub fn reloads(&self) -> ReloadMetrics {
        let families = &self.families;
        let counter = |outcome| families.policy_reloads.get_or_create_owned(&Outcome { outcome });
        ReloadMetrics {
            taken: counter("taken"),
            refused: counter("refused"),
            last_successful: families.policy_last_reload_successful.clone(),
            last_taken: families.policy_last_taken.clone(),
        }
    }

    /// The metrics of the public listener's requests whose tenant is unknown.
    #[must_use]
    pub fn requests(&self) -> RequestMetrics {
        RequestMetrics(Arc::clone(&self.families))
    }

    /// Metrics of the public listener's connections.
    #[must_use]
    pub fn connections(&self) -> ConnectionMetrics {
        let families = &self.families;
        let closed = |reason| families.connections_closed.get_or_create_owned(&Reason { reason });
        ConnectionMetrics {
            open: families.connections.clone(),
            at_limit: closed("limit"),
            over_bytes: closed("bytes"),
            at_deadline: closed("deadline"),
            not_admitted: closed("not-admitted"),
        }
    }
}

impl Families {
    fn register(&self, ours: &mut Registry) {
        ours.register("tokens_issued", "Tokens issued, by format", self.tokens_issued.clone());
        ours.register(
            "token_refusals",
            "Requests for a token that were refused, by reason and status",
            self.token_refusals.clone(),
        );
        ours.register(
            "token_duration_seconds",
            "How long it took to issue or refuse a token, in seconds",
            self.token_durations.clone(),
        );
        ours.register("policy_rules", "Rules of the policy in force", self.policy_rules.clone());
        ours.register(
            "signing_key_refreshes",
            "Attempts to fetch the signing keys from Clerk, by outcome",
            self.signing_key_refreshes.clone(),
        );
        ours.register(
            "signing_keys_confirmed_timestamp_seconds",
            "When Clerk last confirmed the signing keys; 0 before the first time",
            self.signing_keys_confirmed.clone(),
        );
        ours.register("user_lookups", "Users wanted, by how they were found", self.user_lookups.clone());
        ours.register(
            "ably_exchanges",
            "Token requests that the service exchanged at Ably, by outcome",
            self.ably_exchanges.clone(),
        );
        ours.register(
            "clock_offset_seconds",
            "How far this machine's clock is ahead of the vendor's, in seconds",
            self.clock_offsets.clone(),
        );
        ours.register("webhooks", "Verified webhooks of Clerk's, by outcome", self.webhooks.clone());
        ours.register("revocations", "Revocations that Ably was asked for, by outcome", self.revocations.clone());
        ours.register(
            "policy_reloads",
            "New configurations that were read while the service runs, by outcome",
            self.policy_reloads.clone(),
        );
        ours.register(
            "policy_last_reload_successful",
            "1 if the last new configuration was taken, or there was none; 0 if it was refused",
            self.policy_last_reload_successful.clone(),
        );
        ours.register(
            "policy_last_taken_timestamp_seconds",
            "When the policy in force was taken, at the start or later",
            self.policy_last_taken.clone(),
        );
        ours.register(
            "request_refusals",
            "Requests to the public listener that were refused before it was known whose they are",
            self.request_refusals.clone(),
        );
        ours.register(
            "requests_in_flight",
            "Requests to the public listener that are being answered",
            self.requests_in_flight.clone(),
        );
        ours.register("connections", "Open connections of the public listener", self.connections.clone());
        ours.register(
            "connections_closed",
            "Connections of the public listener that were closed to keep a limit",
            self.connections_closed.clone(),
        );
    }
}

/// The metrics of a tenant.
#[derive(Clone)]
pub struct TenantMetrics(Arc<TenantSeries>);

struct TenantSeries {
    families: Arc<Families>,
    tenant: TenantLabel,
    token_requests: Counter,
    jwts: Counter,
    token_details: Counter,
    issued_in: Histogram,
    refused_in: Histogram,
    rules: Gauge,
    clerk_clock: ClockWatch,
    ably_clock: ClockWatch,
}

impl fmt::Debug for TenantMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TenantMetrics").field(&self.0.tenant.0).finish()
    }
}

impl Default for TenantMetrics {
    /// Metrics that are never exposed.
    fn default() -> Self {
        Metrics::new(UnixMillis(0)).tenant(Metrics::NO_TENANT)
    }
}

impl TenantMetrics {
    /// A token was issued after this time.
    pub fn issued(&self, format: TokenFormat, after: Duration) {
        match format {
            TokenFormat::TokenRequest => &self.0.token_requests,
            TokenFormat::Jwt => &self.0.jwts,
            TokenFormat::TokenDetails => &self.0.token_details,
        }
        .inc();
        self.0.issued_in.observe(after.as_secs_f64());
    }

    /// A token was refused after this time.
    pub fn refused(&self, reason: &'static str, status: u16, after: Duration) {
        let labels = TokenRefusal { tenant: self.0.tenant.clone(), reason, status };
        self.0.families.token_refusals.get_or_create(&labels).inc();
        self.0.refused_in.observe(after.as_secs_f64());
    }

    /// A policy with this number of rules is in force.
    pub fn policy_in_force(&self, rules: usize) {
        self.0.rules.set(i64::try_from(rules).unwrap_or(i64::MAX));
    }

    /// For refreshes of the signing keys.
    #[must_use]
    pub fn signing_key_refreshes(&self) -> RefreshCounts {
        let families = &self.0.families;
        RefreshCounts {
            confirmed: self.by_outcome(&families.signing_key_refreshes, "confirmed"),
            failed: self.by_outcome(&families.signing_key_refreshes, "failed"),
            confirmed_at: families
                .signing_keys_confirmed
                .get_or_create_owned(&TenantLabels { tenant: self.0.tenant.clone() }),
            clock: self.0.clerk_clock.clone(),
        }
    }

    /// For all calls to Ably.
    #[must_use]
    pub fn ably_clock(&self) -> ClockWatch {
        self.0.ably_clock.clone()
    }

    /// For lookups of users at Clerk.
    #[must_use]
    pub fn user_lookups(&self) -> LookupCounts {
        let family = &self.0.families.user_lookups;
        LookupCounts {
            remembered: self.by_outcome(family, "remembered"),
            asked: self.by_outcome(family, "asked"),
            failed: self.by_outcome(family, "failed"),
        }
    }

    /// For exchanges of token requests at Ably.
    #[must_use]
    pub fn ably_exchanges(&self) -> ExchangeCounts {
        let family = &self.0.families.ably_exchanges;
        ExchangeCounts {
            given: self.by_outcome(family, "given"),
            refused: self.by_outcome(family, "refused"),
            unavailable: self.by_outcome(family, "unavailable"),
        }
    }

    /// For revocations at Ably, a target each.
    #[must_use]
    pub fn revocations(&self) -> RevocationCounts {
        let family = &self.0.families.revocations;
        RevocationCounts {
            accepted: self.by_outcome(family, "accepted"),
            refused: self.by_outcome(family, "refused"),
            unavailable: self.by_outcome(family, "unavailable"),
        }
    }

    /// A webhook was answered; `outcome` is one of `docs/metrics.md`.
    pub fn webhook(&self, outcome: &'static str) {
        self.by_outcome(&self.0.families.webhooks, outcome).inc();
    }

    fn by_outcome(&self, family: &Family<TenantOutcome, Counter>, outcome: &'static str) -> Counter {
        family.get_or_create_owned(&TenantOutcome { tenant: self.0.tenant.clone(), outcome })
    }
}

/// The metrics of reloads.
#[derive(Clone, Debug)]
pub struct ReloadMetrics {
    taken: Counter,
    refused: Counter,
    last_successful: Gauge,
    last_taken: Gauge,
}

impl ReloadMetrics {
    /// A new policy took effect.
    pub fn taken(&self, now: UnixMillis) {
        self.taken.inc();
        self.last_successful.set(1);
        self.last_taken.set(seconds(now));
    }

    /// A new configuration was rejected.
    pub fn refused(&self) {
        self.refused.inc();
        self.last_successful.set(0);
    }
}

/// The metrics of the public listener's requests whose tenant is unknown.
#[derive(Clone, Debug)]
pub struct RequestMetrics(Arc<Families>);

impl RequestMetrics {
    /// Counts a request as in flight until the returned value is dropped.
    #[must_use]
    pub fn begin(&self) -> InFlight {
        let gauge = self.0.requests_in_flight.clone();
        gauge.inc();
        InFlight(gauge)
    }

    /// A request was refused.
    pub fn refused(&self, reason: &'static str, status: u16) {
        self.0.request_refusals.get_or_create(&RequestRefusal { reason, status }).inc();
    }
}

/// Metrics of a listener's connections.
#[derive(Clone, Debug, Default)]
pub struct ConnectionMetrics {
    /// Connections that are open.
    pub open: Gauge,
    /// Connections closed for new ones.
    pub at_limit: Counter,
    /// Connections closed because unverified requests held too many bytes together.
    pub over_bytes: Counter,
    /// Connections closed because a request was not answered, or its answer not read, in time.
    pub at_deadline: Counter,
    /// New connections closed because all others were busy.
    pub not_admitted: Counter,
}

/// A request in flight.
#[derive(Debug)]
pub struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn seconds(time: UnixMillis) -> i64 {
    time.0 / 1000
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ClockOffset;

    fn metrics_since(start: UnixMillis) -> Metrics {
        Metrics::new(start)
    }

    fn series<'a>(exposition: &'a str, name: &str) -> Vec<&'a str> {
        let mut series: Vec<_> = exposition.lines().filter(|line| line.starts_with(name)).collect();
        series.sort_unstable();
        series
    }

    #[test]
    fn an_exposition_is_prometheus_text_from_the_first_moment_on() {
        let metrics = metrics_since(UnixMillis(1_700_000_000_999));
        let exposition = metrics.exposition().unwrap().replace(env!("CARGO_PKG_VERSION"), "<version>");
        insta::assert_snapshot!(exposition, @r#"
        # HELP process_start_time_seconds When the process started.
        # TYPE process_start_time_seconds gauge
        process_start_time_seconds 1700000000
        # HELP ably_clerk_auth_build_info The version that runs; always 1.
        # TYPE ably_clerk_auth_build_info gauge
        ably_clerk_auth_build_info{version="<version>"} 1
        # HELP ably_clerk_auth_policy_last_reload_successful 1 if the last new configuration was taken, or there was none; 0 if it was refused.
        # TYPE ably_clerk_auth_policy_last_reload_successful gauge
        ably_clerk_auth_policy_last_reload_successful 1
        # HELP ably_clerk_auth_policy_last_taken_timestamp_seconds When the policy in force was taken, at the start or later.
        # TYPE ably_clerk_auth_policy_last_taken_timestamp_seconds gauge
        ably_clerk_auth_policy_last_taken_timestamp_seconds 1700000000
        # HELP ably_clerk_auth_requests_in_flight Requests to the public listener that are being answered.
        # TYPE ably_clerk_auth_requests_in_flight gauge
        ably_clerk_auth_requests_in_flight 0
        # HELP ably_clerk_auth_connections Open connections of the public listener.
        # TYPE ably_clerk_auth_connections gauge
        ably_clerk_auth_connections 0
        "#);
    }

    #[test]
    fn a_counter_has_one_name_in_its_help_its_type_and_its_samples() {
        let metrics = metrics_since(UnixMillis(0));
        let reloads = metrics.reloads();
        reloads.refused();
        reloads.taken(UnixMillis(5000));
        reloads.refused();
        let exposition = metrics.exposition().unwrap();
        assert!(exposition.contains("# TYPE ably_clerk_auth_policy_reloads_total counter\n"), "{exposition}");
        assert!(exposition.contains("# HELP ably_clerk_auth_policy_reloads_total New "), "{exposition}");
        assert_eq!(
            series(&exposition, "ably_clerk_auth_policy_"),
            [
                "ably_clerk_auth_policy_last_reload_successful 0",
                "ably_clerk_auth_policy_last_taken_timestamp_seconds 5",
                "ably_clerk_auth_policy_reloads_total{outcome=\"refused\"} 2",
                "ably_clerk_auth_policy_reloads_total{outcome=\"taken\"} 1",
            ]
        );
    }

    #[test]
    fn tenants_have_series_of_their_own_and_handles_of_one_tenant_share_them() {
        let metrics = metrics_since(UnixMillis(0));
        let [one, again, other] = ["one", "one", "t\"wo"].map(|name| metrics.tenant(name));
        one.issued(TokenFormat::Jwt, Duration::from_millis(3));
        again.issued(TokenFormat::Jwt, Duration::from_millis(30));
        other.refused("token-expired", 401, Duration::from_millis(3));
        other.user_lookups().asked.inc();
        other.user_lookups().asked.inc();
        let exposition = metrics.exposition().unwrap();
        let jwts = "ably_clerk_auth_tokens_issued_total{tenant=\"one\",format=\"jwt\"}";
        assert_eq!(series(&exposition, jwts), [format!("{jwts} 2")]);
        let refusals = "ably_clerk_auth_token_refusals_total{";
        let refused = "tenant=\"t\\\"wo\",reason=\"token-expired\",status=\"401\"} 1";
        assert_eq!(series(&exposition, refusals), [format!("{refusals}{refused}")]);
        let asked = "ably_clerk_auth_user_lookups_total{tenant=\"t\\\"wo\",outcome=\"asked\"}";
        assert_eq!(series(&exposition, asked), [format!("{asked} 2")]);
        let took = "ably_clerk_auth_token_duration_seconds_bucket{tenant=\"one\",outcome=\"issued\",le=\"0.005\"}";
        assert_eq!(series(&exposition, took), [format!("{took} 1")]);
    }

    #[test]
    fn a_clock_has_no_offset_before_it_is_measured_and_then_one_for_each_tenant_and_vendor() {
        let metrics = metrics_since(UnixMillis(0));
        let [one, other] = ["one", "other"].map(|name| metrics.tenant(name));
        let (clerk, ably) = (one.signing_key_refreshes().clock, other.ably_clock());
        let name = "ably_clerk_auth_clock_offset_seconds{";
        assert_eq!(series(&metrics.exposition().unwrap(), name), [""; 0]);
        clerk.observe(Some(ClockOffset { ms: -1250, uncertainty_ms: 500 }));
        ably.observe(Some(ClockOffset { ms: 121_000, uncertainty_ms: 500 }));
        let expected = [r#"tenant="one",vendor="clerk"} -1.25"#, r#"tenant="other",vendor="ably"} 121.0"#];
        assert_eq!(series(&metrics.exposition().unwrap(), name), expected.map(|labels| format!("{name}{labels}")));
    }

    #[test]
    fn a_request_is_in_flight_as_long_as_it_is_held() {
        let metrics = metrics_since(UnixMillis(0));
        let in_flight = |requests: i64| {
            let exposition = metrics.exposition().unwrap();
            assert!(exposition.contains(&format!("ably_clerk_auth_requests_in_flight {requests}\n")), "{exposition}");
        };
        let first = metrics.requests().begin();
        let second = metrics.requests().begin();
        in_flight(2);
        drop(first);
        in_flight(1);
        drop(second);
        in_flight(0);
    }
}
