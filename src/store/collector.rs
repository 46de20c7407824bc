//! The metrics of the store, read at each exposition.

use std::{fmt, sync::Arc};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder, metrics::MetricType};

use super::{Health, Store, StoreStats};
use crate::clock::{Clock, UnixMillis};

/// Collects the metrics of a store.
#[derive(derive_more::Debug)]
pub struct StoreCollector {
    /// The store.
    pub store: Arc<Store>,
    /// The current time.
    #[debug(skip)]
    pub clock: Clock,
}

impl Collector for StoreCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let now = (self.clock)();
        let StoreStats { restrictions, live_tokens, tasks, outages, .. } = self.store.stats(now);
        let overdue = |due: UnixMillis| usize::try_from(now.0.saturating_sub(due.0) / 1000).unwrap_or(0);

        let help = "1 for the current state of the store, 0 for the others.";
        let health = self.store.health();
        let mut state = encoder.encode_descriptor("store_state", help, None, MetricType::Gauge)?;
        for each in [Health::Starting, Health::Ready, Health::Degraded] {
            state.encode_family(&[("state", each.to_string())])?.encode_gauge(&u64::from(each == health))?;
        }
        for (name, help, value) in [
            ("store_restrictions", "Denials and marks in force.", restrictions),
            ("store_live_tokens", "Live tokens that this replica issued.", live_tokens),
            ("store_work", "Revocation tasks that wait.", tasks.count),
            (
                "store_work_overdue_seconds",
                "How long the oldest revocation task has been due; 0 if none is due.",
                tasks.oldest_due.map_or(0, overdue),
            ),
        ] {
            let value = u64::try_from(value).unwrap_or(u64::MAX);
            encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)?;
        }
        // The text format writes the samples of gauges and counters alike.
        let help = "Outages of Redis since the start.";
        encoder.encode_descriptor("store_outages", help, None, MetricType::Counter)?.encode_gauge(&outages)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicI64, Ordering},
        time::Duration,
    };

    use prometheus_client::{encoding::prometheus_text::encode, registry::Registry};

    use super::*;
    use crate::{
        store::{DenialSource, Restriction, RestrictionKind, StoreLimits, StoredTask, Subject},
        tenant::TenantName,
    };

    const START: UnixMillis = UnixMillis(1_700_000_000_000);

    fn registry(store: &Arc<Store>, clock: Clock) -> Registry {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(StoreCollector { store: Arc::clone(store), clock }));
        registry
    }

    fn exposition(registry: &Registry) -> String {
        let mut text = String::new();
        encode(&mut text, registry).unwrap();
        text
    }

    fn store() -> Arc<Store> {
        Arc::new(Store::in_memory(&StoreLimits::default(), Arc::new(|_| {})))
    }

    #[test]
    fn all_metrics_of_the_store_exist_from_the_start() {
        let registry = registry(&store(), Arc::new(|| START));
        insta::assert_snapshot!(exposition(&registry), @r#"
        # HELP store_state 1 for the current state of the store, 0 for the others.
        # TYPE store_state gauge
        store_state{state="starting"} 0
        store_state{state="ready"} 1
        store_state{state="degraded"} 0
        # HELP store_restrictions Denials and marks in force.
        # TYPE store_restrictions gauge
        store_restrictions 0
        # HELP store_live_tokens Live tokens that this replica issued.
        # TYPE store_live_tokens gauge
        store_live_tokens 0
        # HELP store_work Revocation tasks that wait.
        # TYPE store_work gauge
        store_work 0
        # HELP store_work_overdue_seconds How long the oldest revocation task has been due; 0 if none is due.
        # TYPE store_work_overdue_seconds gauge
        store_work_overdue_seconds 0
        # HELP store_outages_total Outages of Redis since the start.
        # TYPE store_outages_total counter
        store_outages_total 0
        "#);
    }

    #[tokio::test]
    async fn the_metrics_are_current_when_they_are_read() {
        let time = Arc::new(AtomicI64::new(START.0));
        let clock = {
            let time = Arc::clone(&time);
            Arc::new(move || UnixMillis(time.load(Ordering::Relaxed)))
        };
        let store = store();
        let registry = registry(&store, clock);
        let nonzero = || {
            let exposition = exposition(&registry);
            let samples = exposition.lines().filter(|line| line.starts_with("store_") && !line.ends_with(" 0"));
            let mut samples: Vec<_> = samples.map(|sample| sample["store_".len()..].to_owned()).collect();
            samples.sort_unstable();
            samples
        };
        assert_eq!(nonzero(), ["state{state=\"ready\"} 1"]);

        let restriction = Restriction {
            session_user: None,
            tenant: TenantName::default(),
            subject: Subject::User("user_1".to_owned()),
            kind: RestrictionKind::Denied(DenialSource::Clerk),
            at: START,
            until: START.after(Duration::from_mins(5)),
        };
        store.record(&[restriction], &[], START).await.unwrap();
        for due in [Duration::from_mins(1), Duration::from_mins(2)] {
            let task = StoredTask { id: format!("{due:?}"), due: START.after(due), payload: String::new() };
            store.record(&[], &[task], START).await.unwrap();
        }
        assert_eq!(nonzero(), ["restrictions 1", "state{state=\"ready\"} 1", "work 2"]);
        time.store(START.after(Duration::from_mins(3)).0, Ordering::Relaxed);
        let late = ["restrictions 1", "state{state=\"ready\"} 1", "work 2", "work_overdue_seconds 120"];
        assert_eq!(nonzero(), late);
        time.store(START.after(Duration::from_mins(5)).0, Ordering::Relaxed);
        assert_eq!(nonzero(), ["state{state=\"ready\"} 1", "work 2", "work_overdue_seconds 240"]);
    }
}
