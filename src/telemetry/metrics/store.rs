//! The store, counted whenever the metrics are read: nothing is recorded in between.

use std::{fmt, sync::Arc};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder, metrics::MetricType};

use crate::store::{Backlog, Census, Clock, Health, Store};

/// Tells of a store.
pub struct StoreCollector {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The time.
    pub clock: Clock,
}

impl fmt::Debug for StoreCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreCollector").field("store", &self.store).finish_non_exhaustive()
    }
}

impl Collector for StoreCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let now = (self.clock)();
        let Census { health, restrictions, live_tokens, backlog, unwritten, outages, unwritten_work } =
            self.store.census(now);
        let Backlog { pieces, oldest_due } = backlog;
        let overdue = oldest_due.map_or(0, |due| now.0.saturating_sub(due.0).max(0) / 1000);

        let help = "1 for the state that the store is in, 0 for the others.";
        let mut state = encoder.encode_descriptor("store_state", help, None, MetricType::Gauge)?;
        for each in Health::ALL {
            state.encode_family(&[("state", each.as_str())])?.encode_gauge(&u64::from(each == health))?;
        }

        let mut single = |name, help, kind, value: u64| {
            // The text format writes samples of counters and gauges alike.
            encoder.encode_descriptor(name, help, None, kind)?.encode_gauge(&value)
        };
        let (gauge, counter) = (MetricType::Gauge, MetricType::Counter);
        single("store_restrictions", "Denials and marks in force.", gauge, count(restrictions))?;
        single("store_live_tokens", "Tokens that are out and that this replica issued.", gauge, count(live_tokens))?;
        single("store_work", "Pieces of work that wait to be done.", gauge, count(pieces))?;
        single(
            "store_work_overdue_seconds",
            "For how long the oldest piece of work has been due; 0 if none is.",
            gauge,
            overdue.unsigned_abs(),
        )?;
        single(
            "store_unwritten_restrictions",
            "Restrictions that Redis lacks and this replica knows.",
            gauge,
            count(unwritten),
        )?;
        single(
            "store_unwritten_work",
            "Pieces of work that Redis lacks and this replica has.",
            gauge,
            count(unwritten_work),
        )?;
        single("store_outages", "How many times Redis was lost.", counter, outages)
    }
}

fn count(things: usize) -> u64 {
    u64::try_from(things).unwrap_or(u64::MAX)
}
