//! What was served, counted per service: the source of metrics.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Upper bounds of the latency histogram, in milliseconds; a last bucket takes the rest.
pub const LATENCY_BOUNDS_MS: [u64; 12] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 10000];

/// A handle to the counters of all services; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    services: Arc<Mutex<BTreeMap<(String, String), Entry>>>,
}

type Entry = (Arc<ServiceState>, Arc<AtomicUsize>);

/// The counters of one service at one instant. All but `in_flight` only ever grow.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ServiceCounters {
    pub project: String,
    pub service: String,
    /// Requests that have ended, whatever their status.
    pub requests: u64,
    /// By class: 1xx, 2xx, 3xx, 4xx, 5xx. A client that went away before the response is 4xx.
    pub by_status_class: [u64; 5],
    /// Requests per bucket of [`LATENCY_BOUNDS_MS`] (not cumulative), until the response's end.
    pub latency_buckets: [u64; LATENCY_BOUNDS_MS.len() + 1],
    /// The sum of all latencies, in microseconds.
    pub latency_sum_us: u64,
    pub in_flight: u64,
    /// Attempts after the first one of a request.
    pub retries: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

impl Counters {
    /// The counters of every service that ever had a route, by project and service.
    pub fn snapshot(&self) -> Vec<ServiceCounters> {
        let services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        services
            .iter()
            .map(|((project, service), (state, _))| state.snapshot(project, service))
            .collect()
    }

    /// The state of one service and its place in the round robin; both outlive a route table.
    pub(crate) fn service(&self, project: &str, service: &str) -> Entry {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        services
            .entry((project.to_owned(), service.to_owned()))
            .or_default()
            .clone()
    }
}

#[derive(Debug, Default)]
pub(crate) struct ServiceState {
    by_status_class: [AtomicU64; 5],
    latency_buckets: [AtomicU64; LATENCY_BOUNDS_MS.len() + 1],
    latency_sum_us: AtomicU64,
    in_flight: AtomicU64,
    retries: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

impl ServiceState {
    pub(crate) fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn end(&self, status: u16, latency: Duration, bytes_in: u64, bytes_out: u64) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        self.by_status_class[class].fetch_add(1, Ordering::Relaxed);
        let bucket = LATENCY_BOUNDS_MS
            .iter()
            .position(|bound| latency <= Duration::from_millis(*bound))
            .unwrap_or(LATENCY_BOUNDS_MS.len());
        self.latency_buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let microseconds = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latency_sum_us
            .fetch_add(microseconds, Ordering::Relaxed);
        self.bytes_in.fetch_add(bytes_in, Ordering::Relaxed);
        self.bytes_out.fetch_add(bytes_out, Ordering::Relaxed);
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    fn snapshot(&self, project: &str, service: &str) -> ServiceCounters {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let by_status_class = std::array::from_fn(|index| load(&self.by_status_class[index]));
        ServiceCounters {
            project: project.to_owned(),
            service: service.to_owned(),
            requests: by_status_class.iter().sum(),
            by_status_class,
            latency_buckets: std::array::from_fn(|index| load(&self.latency_buckets[index])),
            latency_sum_us: load(&self.latency_sum_us),
            in_flight: load(&self.in_flight),
            retries: load(&self.retries),
            bytes_in: load(&self.bytes_in),
            bytes_out: load(&self.bytes_out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_counted_once_everywhere() {
        let counters = Counters::default();
        let (state, _) = counters.service("shop", "api");
        state.begin();
        state.begin();
        state.end(503, Duration::from_millis(3), 10, 20);
        let snapshot = &counters.snapshot()[0];
        assert_eq!((snapshot.requests, snapshot.in_flight), (1, 1));
        assert_eq!(snapshot.by_status_class, [0, 0, 0, 0, 1]);
        assert_eq!(snapshot.latency_buckets[2], 1);
        assert_eq!((snapshot.bytes_in, snapshot.bytes_out), (10, 20));
        state.end(200, Duration::from_secs(60), 0, 0);
        assert_eq!(
            counters.snapshot()[0].latency_buckets[LATENCY_BOUNDS_MS.len()],
            1
        );
    }
}
