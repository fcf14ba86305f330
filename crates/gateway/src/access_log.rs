//! One JSON line per request, written by a thread of its own.
//!
//! Invariant: a request never waits for the disk. When the queue is full, the line is dropped and
//! counted, and the count is written as a line of its own (`{"dropped":N}`) once there is room.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

use bulkhead_model::{Error, Result};
use serde::Serialize;

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
        let mut log = RotatingFile::open(&settings)?;
        let (sender, receiver) = sync_channel(settings.queue.max(1));
        let dropped = Arc::new(AtomicU64::new(0));
        let dropped_here = dropped.clone();
        let writer = std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_lines(&receiver, &mut log, &dropped_here))
            .map_err(|error| {
                Error::host("start the thread of the access log").with_source(error)
            })?;
        Ok(Self {
            handle: LogHandle {
                sender: Some(sender),
                dropped,
            },
            writer: Some(writer),
        })
    }

    /// How many lines were dropped because the disk was slower than the requests, and have not
    /// been reported in the log yet.
    pub fn dropped(&self) -> u64 {
        self.handle.dropped.load(Ordering::Relaxed)
    }

    pub(crate) fn handle(&self) -> LogHandle {
        self.handle.clone()
    }

    /// Waits until all lines are written; the thread ends when the last handle is gone.
    pub(crate) fn close(mut self) {
        self.handle.sender = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::warn!("the writer of the access log panicked");
        }
    }
}

/// What a request holds to write its line.
#[derive(Debug, Clone, Default)]
pub(crate) struct LogHandle {
    sender: Option<SyncSender<AccessRecord>>,
    dropped: Arc<AtomicU64>,
}

impl LogHandle {
    pub(crate) fn is_enabled(&self) -> bool {
        self.sender.is_some()
    }

    pub(crate) fn write(&self, record: AccessRecord) {
        if let Some(sender) = &self.sender
            && sender.try_send(record).is_err()
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// One line of the log. Empty fields are left out.
#[derive(Debug, Serialize)]
pub(crate) struct AccessRecord {
    /// When the request arrived: RFC 3339, UTC.
    pub(crate) time: String,
    pub(crate) client: String,
    pub(crate) method: String,
    pub(crate) host: String,
    pub(crate) path: String,
    /// 499: the client went away before the response began.
    pub(crate) status: u16,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    /// From the request's header until the response's last byte.
    pub(crate) duration_ms: f64,
    /// From the choice of a replica until its response's header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) upstream_ms: Option<f64>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) project: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) service: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) sandbox: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) retries: u32,
    pub(crate) trace_id: String,
    pub(crate) span_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) parent_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

fn write_lines(receiver: &Receiver<AccessRecord>, log: &mut RotatingFile, dropped: &AtomicU64) {
    loop {
        let record = match receiver.try_recv() {
            Ok(record) => record,
            Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) => {
                report_dropped(log, dropped);
                log.flush();
                match receiver.recv() {
                    Ok(record) => record,
                    Err(_) => break,
                }
            }
        };
        match serde_json::to_vec(&record) {
            Ok(line) => log.write_line(line),
            Err(error) => tracing::warn!(%error, "a line of the access log could not be formed"),
        }
    }
    report_dropped(log, dropped);
    log.flush();
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

#[derive(Debug)]
struct RotatingFile {
    path: PathBuf,
    max_bytes: u64,
    keep: u32,
    /// Nothing while the file cannot be opened, as when the disk is full; tried again per line.
    file: Option<BufWriter<File>>,
    size: u64,
    failed: bool,
}

impl RotatingFile {
    fn open(settings: &AccessLogSettings) -> Result<Self> {
        let (file, size) = open_for_append(&settings.path).map_err(|error| {
            Error::host(format!("open the access log {}", settings.path.display()))
                .with_source(error)
        })?;
        Ok(Self {
            path: settings.path.clone(),
            max_bytes: settings.max_bytes,
            keep: settings.keep,
            file: Some(file),
            size,
            failed: false,
        })
    }

    fn write_line(&mut self, mut line: Vec<u8>) {
        line.push(b'\n');
        let result = self.try_write(&line);
        self.note(result);
    }

    fn flush(&mut self) {
        let result = self.file.as_mut().map_or(Ok(()), Write::flush);
        self.note(result);
    }

    fn try_write(&mut self, line: &[u8]) -> std::io::Result<()> {
        let length = line.len() as u64;
        if self.size > 0 && self.size + length > self.max_bytes {
            self.rotate()?;
        }
        if self.file.is_none() {
            let (file, size) = open_for_append(&self.path)?;
            self.size = size;
            self.file = Some(file);
        }
        if let Some(file) = &mut self.file {
            file.write_all(line)?;
            self.size += length;
        }
        Ok(())
    }

    fn rotate(&mut self) -> std::io::Result<()> {
        if let Some(mut file) = self.file.take() {
            file.flush()?;
        }
        if self.keep == 0 {
            std::fs::remove_file(&self.path)?;
        }
        for number in (1..=self.keep).rev() {
            let from = match number {
                1 => self.path.clone(),
                _ => numbered(&self.path, number - 1),
            };
            if from.exists() {
                std::fs::rename(from, numbered(&self.path, number))?;
            }
        }
        self.size = 0;
        Ok(())
    }

    /// Says once that the log cannot be written, not once per line.
    fn note(&mut self, result: std::io::Result<()>) {
        match result {
            Ok(()) => self.failed = false,
            Err(error) => {
                self.file = None;
                if !self.failed {
                    tracing::warn!(path = %self.path.display(), %error, "cannot write the access log");
                }
                self.failed = true;
            }
        }
    }
}

fn open_for_append(path: &Path) -> std::io::Result<(BufWriter<File>, u64)> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let size = file.metadata()?.len();
    Ok((BufWriter::with_capacity(64 * 1024, file), size))
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}
