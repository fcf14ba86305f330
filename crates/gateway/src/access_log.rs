//! One JSON line per request, written by a thread of its own.
//!
//! Invariant: a request never waits for the disk. When the queue is full, the line is dropped and
//! counted, and the count is written as a line of its own (`{"dropped":N}`) once there is room.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use bulkhead_model::{Error, Result};
use serde::Serialize;

use crate::rotating_file::RotatingFile;
use crate::route::Backend;
use crate::router::Target;
use crate::timestamp::rfc3339;
use crate::trace::TraceContext;

/// How long the writer gathers lines before it writes them. Without it every request would wake
/// the writer, which was measured to cost more than the rest of the request.
const GATHER: Duration = Duration::from_millis(20);

/// Where the log goes and how large it may become.
#[derive(Debug, Clone)]
pub struct AccessLogSettings {
    pub path: PathBuf,
    /// The file is renamed to `NAME.1` (and `NAME.1` to `NAME.2` …) before it exceeds this size.
    pub max_bytes: u64,
    /// How many renamed files are kept.
    pub keep: u32,
    /// The most lines that wait for the disk.
    pub queue: usize,
}

impl AccessLogSettings {
    /// At most 4 files of 16 MiB, and 8192 waiting lines.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            max_bytes: 16 * 1024 * 1024,
            keep: 3,
            queue: 8192,
        }
    }
}

/// The access log. When it is dropped, all waiting lines are written.
#[derive(Debug)]
pub struct AccessLog {
    handle: LogHandle,
    writer: Option<JoinHandle<()>>,
}

impl AccessLog {
    /// No log at all.
    pub fn disabled() -> Self {
        Self {
            handle: LogHandle::default(),
            writer: None,
        }
    }

    /// Appends to the file of `settings`.
    ///
    /// # Errors
    /// `Host` if the file cannot be opened for writing or the thread cannot be started.
    pub fn open(settings: AccessLogSettings) -> Result<Self> {
        let mut log = RotatingFile::open(&settings.path, settings.max_bytes, settings.keep)?;
        let queue = Arc::new(Queue::new(settings.queue.max(1)));
        let read = queue.clone();
        let writer = std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_lines(&read, &mut log))
            .map_err(|error| {
                Error::host("start the thread of the access log").with_source(error)
            })?;
        Ok(Self {
            handle: LogHandle { queue: Some(queue) },
            writer: Some(writer),
        })
    }

    /// How many lines were dropped because the disk was slower than the requests, and have not
    /// been reported in the log yet.
    pub fn dropped(&self) -> u64 {
        let queue = self.handle.queue.as_ref();
        queue.map_or(0, |queue| queue.dropped.load(Ordering::Relaxed))
    }

    pub(crate) fn handle(&self) -> LogHandle {
        self.handle.clone()
    }

    /// Waits until all lines are written. Lines that come later are lost.
    pub(crate) fn close(mut self) {
        self.handle.end();
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::warn!("the writer of the access log panicked");
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.handle.end();
    }
}

/// What a request holds to write its line.
#[derive(Debug, Clone, Default)]
pub(crate) struct LogHandle {
    queue: Option<Arc<Queue>>,
}

impl LogHandle {
    pub(crate) fn write(&self, record: AccessRecord) {
        if let Some(queue) = &self.queue {
            queue.push(record);
        }
    }

    fn end(&self) {
        if let Some(queue) = &self.queue {
            queue.lock().ended = true;
            queue.filled.notify_one();
        }
    }
}

/// Records on their way to the writer.
#[derive(Debug)]
struct Queue {
    state: Mutex<QueueState>,
    /// Signalled when the queue is no longer empty, and at the end.
    filled: Condvar,
    dropped: AtomicU64,
    capacity: usize,
}

#[derive(Debug, Default)]
struct QueueState {
    records: Vec<AccessRecord>,
    ended: bool,
}

impl Queue {
    fn new(capacity: usize) -> Self {
        Self {
            state: Mutex::default(),
            filled: Condvar::new(),
            dropped: AtomicU64::new(0),
            capacity,
        }
    }

    fn push(&self, record: AccessRecord) {
        let mut state = self.lock();
        if state.records.len() >= self.capacity {
            drop(state);
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        state.records.push(record);
        if state.records.len() == 1 {
            drop(state);
            self.filled.notify_one();
        }
    }

    /// Waits for records; says whether there will be more.
    fn take_into(&self, records: &mut Vec<AccessRecord>) -> bool {
        let waited = self.filled.wait_while(self.lock(), |state| {
            state.records.is_empty() && !state.ended
        });
        let state = waited.unwrap_or_else(PoisonError::into_inner);
        let gathered = self
            .filled
            .wait_timeout_while(state, GATHER, |state| !state.ended);
        let (mut state, _) = gathered.unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut state.records, records);
        !state.ended
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is kept of a request for its line; made into text by the writer's thread.
#[derive(Debug)]
pub(crate) struct AccessRecord {
    pub(crate) time: SystemTime,
    pub(crate) client: IpAddr,
    pub(crate) method: http::Method,
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) status: u16,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) duration: Duration,
    pub(crate) upstream: Option<Duration>,
    pub(crate) target: Option<Arc<Target>>,
    pub(crate) backend: Option<Arc<Backend>>,
    pub(crate) retries: u32,
    pub(crate) trace: TraceContext,
    pub(crate) error: Option<String>,
}

/// One line of the log. Empty fields are left out.
#[derive(Debug, Serialize)]
struct Line<'a> {
    /// When the request arrived: RFC 3339, UTC.
    time: String,
    client: IpAddr,
    method: &'a str,
    host: &'a str,
    path: &'a str,
    /// 499: the client went away before the response began.
    status: u16,
    bytes_in: u64,
    bytes_out: u64,
    /// From the request's header until the response's last byte.
    duration_ms: f64,
    /// From the choice of a replica until its response's header.
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    project: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retries: Option<u32>,
    trace_id: String,
    span_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

impl<'a> Line<'a> {
    fn new(record: &'a AccessRecord) -> Self {
        let route = record.target.as_ref().map(|target| &target.route);
        Self {
            time: rfc3339(record.time),
            client: record.client,
            method: record.method.as_str(),
            host: &record.host,
            path: &record.path,
            status: record.status,
            bytes_in: record.bytes_in,
            bytes_out: record.bytes_out,
            duration_ms: milliseconds(record.duration),
            upstream_ms: record.upstream.map(milliseconds),
            project: route.map(|route| route.project.as_str()),
            service: route.map(|route| route.service.as_str()),
            sandbox: record
                .backend
                .as_ref()
                .map(|backend| backend.sandbox.as_str()),
            retries: (record.retries > 0).then_some(record.retries),
            trace_id: format!("{:032x}", record.trace.trace_id),
            span_id: format!("{:016x}", record.trace.span_id),
            parent_id: record.trace.parent_id.map(|id| format!("{id:016x}")),
            error: record.error.as_deref(),
        }
    }
}

/// To the microsecond: more digits say nothing.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000_000.0).round() / 1000.0
}

fn write_lines(queue: &Queue, log: &mut RotatingFile) {
    let mut records = Vec::new();
    let mut more = true;
    while more {
        more = queue.take_into(&mut records);
        for record in records.drain(..) {
            match serde_json::to_vec(&Line::new(&record)) {
                Ok(line) => log.write_line(line),
                Err(error) => {
                    tracing::warn!(%error, "a line of the access log could not be formed")
                }
            }
        }
        report_dropped(log, &queue.dropped);
        log.flush();
    }
}

fn report_dropped(log: &mut RotatingFile, dropped: &AtomicU64) {
    let count = dropped.swap(0, Ordering::Relaxed);
    if count > 0 {
        tracing::warn!(
            count,
            "lines of the access log were dropped: the disk is too slow"
        );
        log.write_line(format!("{{\"dropped\":{count}}}").into_bytes());
    }
}
