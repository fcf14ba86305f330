//! One request from its arrival until its response's last byte: what the access log and the
//! counters need to know of it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crate::access_log::{AccessRecord, LogHandle};
use crate::route::Backend;
use crate::router::Target;
use crate::trace::TraceContext;

/// The client went away before the response began; not a registered code, but nginx's habit.
const STATUS_CLIENT_GONE: u16 = 499;

/// Written to the log and counted when it is dropped, however the request ended.
#[derive(Debug)]
pub(crate) struct Exchange {
    log: LogHandle,
    /// Taken when the exchange is dropped.
    record: Option<AccessRecord>,
    started: Instant,
    /// Bytes of the request's body; counted by the body itself, which is elsewhere.
    pub(crate) bytes_in: Arc<AtomicU64>,
}

/// What is known when the header has arrived.
pub(crate) struct Arrival<'a> {
    pub(crate) client: IpAddr,
    pub(crate) method: http::Method,
    pub(crate) host: &'a str,
    pub(crate) path: &'a str,
    pub(crate) trace: TraceContext,
}

impl Exchange {
    pub(crate) fn begin(log: LogHandle, arrival: Arrival<'_>) -> Self {
        let record = AccessRecord {
            time: SystemTime::now(),
            client: arrival.client,
            method: arrival.method,
            host: arrival.host.to_owned(),
            path: arrival.path.to_owned(),
            status: STATUS_CLIENT_GONE,
            bytes_in: 0,
            bytes_out: 0,
            duration: Duration::ZERO,
            upstream: None,
            target: None,
            backend: None,
            retries: 0,
            trace: arrival.trace,
            error: None,
        };
        Self {
            log,
            record: Some(record),
            started: Instant::now(),
            bytes_in: Arc::new(AtomicU64::new(0)),
        }
    }

    pub(crate) fn routed(&mut self, target: &Arc<Target>) {
        target.service.begin();
        if let Some(record) = &mut self.record {
            record.target = Some(target.clone());
        }
    }

    pub(crate) fn retried(&mut self) {
        if let Some(record) = &mut self.record {
            record.retries += 1;
            if let Some(target) = &record.target {
                target.service.retried();
            }
        }
    }

    pub(crate) fn answered_by(&mut self, backend: &Arc<Backend>, after: Duration) {
        if let Some(record) = &mut self.record {
            record.backend = Some(backend.clone());
            record.upstream = Some(after);
        }
    }

    pub(crate) fn status(&mut self, status: http::StatusCode) {
        if let Some(record) = &mut self.record {
            record.status = status.as_u16();
        }
    }

    pub(crate) fn failed(&mut self, error: String) {
        if let Some(record) = &mut self.record {
            record.error.get_or_insert(error);
        }
    }

    pub(crate) fn received(&self, bytes: u64) {
        self.bytes_in.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn sent(&mut self, bytes: u64) {
        if let Some(record) = &mut self.record {
            record.bytes_out += bytes;
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let Some(mut record) = self.record.take() else {
            return;
        };
        record.bytes_in = self.bytes_in.load(Ordering::Relaxed);
        record.duration = self.started.elapsed();
        if let Some(target) = &record.target {
            let (status, duration) = (record.status, record.duration);
            target
                .service
                .end(status, duration, record.bytes_in, record.bytes_out);
        }
        self.log.write(record);
    }
}
