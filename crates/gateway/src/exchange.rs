//! One request from its arrival until its response's last byte: what the access log and the
//! counters need to know of it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crate::access_log::{AccessRecord, LogHandle};
use crate::counters::ServiceState;
use crate::router::Target;
use crate::timestamp::rfc3339;
use crate::trace::TraceContext;

/// The client went away before the response began; not a registered code, but nginx's habit.
const STATUS_CLIENT_GONE: u16 = 499;

/// Written to the log and counted when it is dropped, however the request ended.
#[derive(Debug)]
pub(crate) struct Exchange {
    log: LogHandle,
    service: Option<Arc<ServiceState>>,
    record: AccessRecord,
    started: Instant,
    /// Bytes of the request's body; counted by the body itself, which is elsewhere.
    pub(crate) bytes_in: Arc<AtomicU64>,
}

/// What is known when the header has arrived.
pub(crate) struct Arrival<'a> {
    pub(crate) client: IpAddr,
    pub(crate) method: &'a http::Method,
    pub(crate) host: &'a str,
    pub(crate) path: &'a str,
    pub(crate) trace: TraceContext,
}

impl Exchange {
    pub(crate) fn begin(log: LogHandle, arrival: &Arrival<'_>) -> Self {
        let record = AccessRecord {
            time: match log.is_enabled() {
                true => rfc3339(SystemTime::now()),
                false => String::new(),
            },
            client: arrival.client.to_string(),
            method: arrival.method.to_string(),
            host: arrival.host.to_owned(),
            path: arrival.path.to_owned(),
            status: STATUS_CLIENT_GONE,
            bytes_in: 0,
            bytes_out: 0,
            duration_ms: 0.0,
            upstream_ms: None,
            project: String::new(),
            service: String::new(),
            sandbox: String::new(),
            retries: 0,
            trace_id: format!("{:032x}", arrival.trace.trace_id),
            span_id: format!("{:016x}", arrival.trace.span_id),
            parent_id: arrival.trace.parent_id.map(|id| format!("{id:016x}")),
            error: None,
        };
        Self {
            log,
            service: None,
            record,
            started: Instant::now(),
            bytes_in: Arc::new(AtomicU64::new(0)),
        }
    }

    pub(crate) fn routed(&mut self, target: &Target) {
        target.service.begin();
        self.service = Some(target.service.clone());
        self.record.project.clone_from(&target.route.project);
        self.record.service.clone_from(&target.route.service);
    }

    pub(crate) fn retried(&mut self) {
        self.record.retries += 1;
        if let Some(service) = &self.service {
            service.retried();
        }
    }

    pub(crate) fn answered_by(&mut self, sandbox: &str, after: Duration) {
        sandbox.clone_into(&mut self.record.sandbox);
        self.record.upstream_ms = Some(milliseconds(after));
    }

    pub(crate) fn status(&mut self, status: http::StatusCode) {
        self.record.status = status.as_u16();
    }

    pub(crate) fn failed(&mut self, error: String) {
        self.record.error.get_or_insert(error);
    }

    pub(crate) fn received(&self, bytes: u64) {
        self.bytes_in.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn sent(&mut self, bytes: u64) {
        self.record.bytes_out += bytes;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let elapsed = self.started.elapsed();
        self.record.bytes_in = self.bytes_in.load(Ordering::Relaxed);
        self.record.duration_ms = milliseconds(elapsed);
        if let Some(service) = &self.service {
            let record = &self.record;
            service.end(record.status, elapsed, record.bytes_in, record.bytes_out);
        }
        if self.log.is_enabled() {
            let take = std::mem::take::<String>;
            let record = &mut self.record;
            self.log.write(AccessRecord {
                time: take(&mut record.time),
                client: take(&mut record.client),
                method: take(&mut record.method),
                host: take(&mut record.host),
                path: take(&mut record.path),
                project: take(&mut record.project),
                service: take(&mut record.service),
                sandbox: take(&mut record.sandbox),
                trace_id: take(&mut record.trace_id),
                span_id: take(&mut record.span_id),
                parent_id: record.parent_id.take(),
                error: record.error.take(),
                ..*record
            });
        }
    }
}

/// To the microsecond: more digits say nothing.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000_000.0).round() / 1000.0
}
