//! The workload's log: lines of JSON as Docker's `json-file` driver writes them,
//! `{"log":"text\n","stream":"stdout","time":"RFC 3339 with nanoseconds"}`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;
use std::time::SystemTime;

use bulkhead_model::{Error, Result};
use serde::Serialize;

/// A longer line is cut into entries of this many bytes, of which only the last ends in a newline.
const ENTRY_LIMIT: usize = 16 * 1024;

pub(crate) struct LogWriter {
    file: Mutex<File>,
}

#[derive(Serialize)]
struct Entry<'a> {
    log: &'a str,
    stream: &'static str,
    time: String,
}

/// One stream's unfinished line.
#[derive(Default)]
pub(crate) struct LineBuffer {
    pending: Vec<u8>,
}

impl LogWriter {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)
            .map_err(|error| Error::host(format!("open {}", path.display())).with_source(error))?;
        Ok(Self {
            file: Mutex::new(file),
        })
    }

    /// Logs the whole lines of `buffer` and `data` and keeps the rest in `buffer`.
    pub(crate) fn write(&self, stream: &'static str, buffer: &mut LineBuffer, data: &[u8]) {
        buffer.pending.extend_from_slice(data);
        let time = humantime::format_rfc3339_nanos(SystemTime::now()).to_string();
        let mut entries = Vec::with_capacity(data.len() + 128);
        let mut rest = buffer.pending.as_slice();
        loop {
            let end = match rest
                .iter()
                .take(ENTRY_LIMIT)
                .position(|byte| *byte == b'\n')
            {
                Some(newline) => newline + 1,
                None if rest.len() >= ENTRY_LIMIT => ENTRY_LIMIT,
                None => break,
            };
            append_entry(&mut entries, stream, &time, &rest[..end]);
            rest = &rest[end..];
        }
        let done = buffer.pending.len() - rest.len();
        buffer.pending.drain(..done);
        self.append(&entries);
    }

    /// Logs what is left of a stream that has ended.
    pub(crate) fn flush(&self, stream: &'static str, buffer: &mut LineBuffer) {
        if buffer.pending.is_empty() {
            return;
        }
        let time = humantime::format_rfc3339_nanos(SystemTime::now()).to_string();
        let mut entries = Vec::new();
        append_entry(&mut entries, stream, &time, &buffer.pending);
        buffer.pending.clear();
        self.append(&entries);
    }

    fn append(&self, entries: &[u8]) {
        if entries.is_empty() {
            return;
        }
        let mut file = self
            .file
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        // A full disk must not stop the workload; it is said in the supervisor's own log.
        if let Err(error) = file.write_all(entries) {
            tracing::error!(%error, "log lines are lost");
        }
    }
}

fn append_entry(entries: &mut Vec<u8>, stream: &'static str, time: &str, line: &[u8]) {
    let text = String::from_utf8_lossy(line);
    let entry = Entry {
        log: &text,
        stream,
        time: time.to_owned(),
    };
    serde_json::to_writer(&mut *entries, &entry).expect("strings can be written to memory");
    entries.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(chunks: &[&[u8]]) -> Vec<String> {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("log");
        let writer = LogWriter::open(&path).expect("open");
        let mut buffer = LineBuffer::default();
        for chunk in chunks {
            writer.write("stdout", &mut buffer, chunk);
        }
        writer.flush("stdout", &mut buffer);
        let text = std::fs::read_to_string(&path).expect("read");
        text.lines()
            .map(|line| {
                let entry: serde_json::Value = serde_json::from_str(line).expect("JSON");
                entry["log"].as_str().expect("log").to_owned()
            })
            .collect()
    }

    #[test]
    fn lines_are_joined_over_chunks() {
        assert_eq!(
            logged(&[b"one\ntw", b"o\n", b"rest"]),
            ["one\n", "two\n", "rest"]
        );
    }

    #[test]
    fn a_long_line_is_cut() {
        let long = vec![b'x'; ENTRY_LIMIT + 3];
        let entries = logged(&[&long, b"\n"]);
        assert_eq!(
            entries.iter().map(String::len).collect::<Vec<_>>(),
            [ENTRY_LIMIT, 4]
        );
    }
}
