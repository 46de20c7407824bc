//! The service's metrics, in Prometheus' text format. `docs/metrics.md` explains each.
//!
//! A service has one [`Metrics`]. Its parts count through handles. No label has a value that a request could choose: each
//! combination of labels is a series that is kept forever.

use std::{
    borrow::Cow,
    fmt, slice,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::prometheus_text::{CONTENT_TYPE, encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Metric, Registry},
};

use crate::{
    ably::{ExchangeCounts, RevocationCounts, TokenFormat},
    clerk::{LookupCounts, RefreshCounts},
    clock::{ClockWatch, UnixMillis},
};

const PREFIX: &str = "ably_clerk_auth";

/// The outcomes of a webhook.
const WEBHOOK_OUTCOMES: [&str; 5] = ["applied", "outdated", "ignored", "postponed", "malformed"];

/// The name of a label and its value.
type Label = (&'static str, Cow<'static, str>);
type Labels = Vec<Label>;

/// All metrics of a service.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    families: Arc<Families>,
}

impl Metrics {
    /// The content type of [`exposition`](Self::exposition).
    pub const CONTENT_TYPE: &str = CONTENT_TYPE;

    /// The label `tenant` of requests without a known tenant: empty, which Prometheus treats as an absent label.
    pub const NO_TENANT: &str = "";

    /// The metrics of a process that starts `now` and has read its policy.
    #[must_use]
    pub fn new(now: UnixMillis) -> Self {
        let mut registry = Registry::default();
        // The standard name, which dashboards and alerts know.
        let started: Gauge = register(&mut registry, "process_start_time_seconds", "When the process started");
        started.set(seconds(now));
        let ours = registry.sub_registry_with_prefix(PREFIX);
        let build: Family<Labels, Gauge> = register(ours, "build_info", "The version that runs; always 1");
        build.get_or_create(&vec![("version", env!("CARGO_PKG_VERSION").into())]).set(1);
        let families = Families::register(ours);
        families.policy_last_reload_successful.set(1);
        families.policy_last_taken.set(seconds(now));
        Self { registry, families: Arc::new(families) }
    }

    /// Adds the metrics of a collector, which is read at each exposition.
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
        TenantMetrics::new(name, &self.families)
    }

    /// The metrics of reloads.
    #[must_use]
    pub fn reloads(&self) -> ReloadMetrics {
        let families = &self.families;
        let [taken, refused] = counters(&families.policy_reloads, &[], "outcome", ["taken", "refused"]);
        let last_successful = families.policy_last_reload_successful.clone();
        ReloadMetrics { taken, refused, last_successful, last_taken: families.policy_last_taken.clone() }
    }

    /// The metrics of the public listener's requests whose tenant is unknown.
    #[must_use]
    pub fn requests(&self) -> RequestMetrics {
        RequestMetrics(Arc::clone(&self.families))
    }

    /// The metrics of the public listener's connections.
    #[must_use]
    pub fn connections(&self) -> ConnectionMetrics {
        let Families { connections, connections_closed, .. } = &*self.families;
        let reasons = ["limit", "bytes", "deadline", "not-admitted"];
        let [at_limit, over_bytes, at_deadline, not_admitted] = counters(connections_closed, &[], "reason", reasons);
        ConnectionMetrics { open: connections.clone(), at_limit, over_bytes, at_deadline, not_admitted }
    }
}

/// Registers a new metric, and returns it.
fn register<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

/// The metrics that begin with [`PREFIX`], except the store's.
#[derive(Debug)]
struct Families {
    tokens_issued: Family<Labels, Counter>,
    token_refusals: Family<Labels, Counter>,
    token_durations: Family<Labels, Histogram, fn() -> Histogram>,
    policy_rules: Family<Labels, Gauge>,
    signing_key_refreshes: Family<Labels, Counter>,
    signing_keys_confirmed: Family<Labels, Gauge>,
    user_lookups: Family<Labels, Counter>,
    ably_exchanges: Family<Labels, Counter>,
    clock_offsets: Family<Labels, Gauge<f64, AtomicU64>>,
    webhooks: Family<Labels, Counter>,
    revocations: Family<Labels, Counter>,
    policy_reloads: Family<Labels, Counter>,
    policy_last_reload_successful: Gauge,
    policy_last_taken: Gauge,
    request_refusals: Family<Labels, Counter>,
    requests_in_flight: Gauge,
    connections: Gauge,
    connections_closed: Family<Labels, Counter>,
}

impl Families {
    fn register(ours: &mut Registry) -> Self {
        let token_durations = Family::new_with_constructor(duration_histogram as fn() -> _);
        ours.register("token_duration_seconds", "Time to issue or refuse a token, in seconds", token_durations.clone());
        Self {
            token_durations,
            tokens_issued: register(ours, "tokens_issued", "Issued tokens"),
            token_refusals: register(ours, "token_refusals", "Requests for a token that were refused"),
            policy_rules: register(ours, "policy_rules", "Rules of the policy in force"),
            signing_key_refreshes: register(ours, "signing_key_refreshes", "Fetches of Clerk's signing keys"),
            signing_keys_confirmed: register(
                ours,
                "signing_keys_confirmed_timestamp_seconds",
                "When Clerk's signing keys were last fetched; 0 before the first time",
            ),
            user_lookups: register(ours, "user_lookups", "Requests that needed a user from Clerk"),
            ably_exchanges: register(ours, "ably_exchanges", "Token requests exchanged at Ably"),
            clock_offsets: register(
                ours,
                "clock_offset_seconds",
                "How far this clock is ahead of the vendor's, in seconds",
            ),
            webhooks: register(ours, "webhooks", "Webhooks with a valid signature"),
            revocations: register(ours, "revocations", "Revocations at Ably, by target"),
            policy_reloads: register(ours, "policy_reloads", "New configurations read while the service runs"),
            policy_last_reload_successful: register(
                ours,
                "policy_last_reload_successful",
                "1 if the last new configuration was taken, or there was none; 0 if it was refused",
            ),
            policy_last_taken: register(
                ours,
                "policy_last_taken_timestamp_seconds",
                "When the policy in force was taken, at the start or later",
            ),
            request_refusals: register(ours, "request_refusals", "Requests refused before the caller was known"),
            requests_in_flight: register(
                ours,
                "requests_in_flight",
                "Requests to the public listener that are being answered",
            ),
            connections: register(ours, "connections", "Open connections of the public listener"),
            connections_closed: register(ours, "connections_closed", "Public connections closed to keep a limit"),
        }
    }
}

/// Its buckets range from a signature alone to a call to Ably with a retry.
fn duration_histogram() -> Histogram {
    Histogram::new([
        0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    ])
}

/// The counters of a family for each value of a label, beside other labels.
fn counters<const N: usize>(
    family: &Family<Labels, Counter>,
    others: &[Label],
    label: &'static str,
    values: [&'static str; N],
) -> [Counter; N] {
    values.map(|value| family.get_or_create_owned(&[others, &[(label, value.into())]].concat()))
}

/// The metrics of a tenant.
#[derive(Clone, Debug)]
pub struct TenantMetrics(Arc<TenantSeries>);

#[derive(Debug)]
struct TenantSeries {
    families: Arc<Families>,
    tenant: Label,
    token_requests: Counter,
    jwts: Counter,
    token_details: Counter,
    issued_in: Histogram,
    refused_in: Histogram,
    clerk_clock: ClockWatch,
    ably_clock: ClockWatch,
}

impl Default for TenantMetrics {
    /// Metrics that are never exposed.
    fn default() -> Self {
        Metrics::new(UnixMillis(0)).tenant(Metrics::NO_TENANT)
    }
}

impl TenantMetrics {
    fn new(name: &str, families: &Arc<Families>) -> Self {
        let tenant: Label = ("tenant", name.to_owned().into());
        let formats = [TokenFormat::TokenRequest, TokenFormat::Jwt, TokenFormat::TokenDetails].map(TokenFormat::as_str);
        let [token_requests, jwts, token_details] =
            counters(&families.tokens_issued, slice::from_ref(&tenant), "format", formats);
        let [issued_in, refused_in] = ["issued", "refused"].map(|outcome| {
            families.token_durations.get_or_create_owned(&vec![tenant.clone(), ("outcome", outcome.into())])
        });
        let [clerk_clock, ably_clock] = ["clerk", "ably"].map(|vendor| {
            let (families, labels) = (Arc::clone(families), vec![tenant.clone(), ("vendor", vendor.into())]);
            // No series before the first offset: 0 would mean that the clock is right.
            ClockWatch::new(name, vendor, move |offset| {
                families.clock_offsets.get_or_create(&labels).set(offset.seconds());
            })
        });
        let families = Arc::clone(families);
        let metrics = Self(Arc::new(TenantSeries {
            families,
            tenant,
            token_requests,
            jwts,
            token_details,
            issued_in,
            refused_in,
            clerk_clock,
            ably_clock,
        }));
        metrics.policy_in_force(0);
        let _ = metrics.by_outcome(&metrics.0.families.webhooks, WEBHOOK_OUTCOMES);
        metrics
    }

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
        let labels = vec![self.0.tenant.clone(), ("reason", reason.into()), ("status", status.to_string().into())];
        self.0.families.token_refusals.get_or_create(&labels).inc();
        self.0.refused_in.observe(after.as_secs_f64());
    }

    /// A policy with this number of rules is in force.
    pub fn policy_in_force(&self, rules: usize) {
        let gauge = self.0.families.policy_rules.get_or_create_owned(&vec![self.0.tenant.clone()]);
        gauge.set(i64::try_from(rules).unwrap_or(i64::MAX));
    }

    /// For refreshes of the signing keys.
    #[must_use]
    pub fn signing_key_refreshes(&self) -> RefreshCounts {
        let Families { signing_key_refreshes, signing_keys_confirmed, .. } = &*self.0.families;
        let [confirmed, failed] = self.by_outcome(signing_key_refreshes, ["confirmed", "failed"]);
        let confirmed_at = signing_keys_confirmed.get_or_create_owned(&vec![self.0.tenant.clone()]);
        RefreshCounts { confirmed, failed, confirmed_at, clock: self.0.clerk_clock.clone() }
    }

    /// For all calls to Ably.
    #[must_use]
    pub fn ably_clock(&self) -> ClockWatch {
        self.0.ably_clock.clone()
    }

    /// For lookups of users at Clerk.
    #[must_use]
    pub fn user_lookups(&self) -> LookupCounts {
        let outcomes = ["remembered", "asked", "failed"];
        let [remembered, asked, failed] = self.by_outcome(&self.0.families.user_lookups, outcomes);
        LookupCounts { remembered, asked, failed }
    }

    /// For exchanges of token requests at Ably.
    #[must_use]
    pub fn ably_exchanges(&self) -> ExchangeCounts {
        let outcomes = ["given", "refused", "unavailable"];
        let [given, refused, unavailable] = self.by_outcome(&self.0.families.ably_exchanges, outcomes);
        ExchangeCounts { given, refused, unavailable }
    }

    /// For revocations at Ably, a target each.
    #[must_use]
    pub fn revocations(&self) -> RevocationCounts {
        let outcomes = ["accepted", "refused", "unavailable"];
        let [accepted, refused, unavailable] = self.by_outcome(&self.0.families.revocations, outcomes);
        RevocationCounts { accepted, refused, unavailable }
    }

    /// A webhook was answered; `outcome` is one of `docs/metrics.md`.
    pub fn webhook(&self, outcome: &'static str) {
        let [webhooks] = self.by_outcome(&self.0.families.webhooks, [outcome]);
        webhooks.inc();
    }

    fn by_outcome<const N: usize>(
        &self,
        family: &Family<Labels, Counter>,
        outcomes: [&'static str; N],
    ) -> [Counter; N] {
        counters(family, slice::from_ref(&self.0.tenant), "outcome", outcomes)
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
        let labels = vec![("reason", reason.into()), ("status", status.to_string().into())];
        self.0.request_refusals.get_or_create(&labels).inc();
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

    fn series<'a>(exposition: &'a str, name: &str) -> Vec<&'a str> {
        let mut series: Vec<_> = exposition.lines().filter(|line| line.starts_with(name)).collect();
        series.sort_unstable();
        series
    }

    #[test]
    fn the_exposition_is_prometheus_text_from_the_start() {
        let metrics = Metrics::new(UnixMillis(1_700_000_000_999));
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
        let metrics = Metrics::new(UnixMillis(0));
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
    fn tenants_have_their_own_series_and_handles_of_one_tenant_share_them() {
        let metrics = Metrics::new(UnixMillis(0));
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
    fn a_clock_offset_exists_for_each_tenant_and_vendor_once_it_is_measured() {
        let metrics = Metrics::new(UnixMillis(0));
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
        let metrics = Metrics::new(UnixMillis(0));
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
