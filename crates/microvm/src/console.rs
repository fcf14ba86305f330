//! The guest's serial console, kept in a file of bounded size beside the sandbox's disk, where it can
//! be read after the guest has died. Each start begins it anew.

use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// The file in which the last run's console is kept, by the directory that its root filesystem
/// writes to ([`bulkhead_model::RootFilesystem::writable`]).
pub fn log_file(writable: &Path) -> PathBuf {
    writable.join("console.log")
}

/// When the file has grown to this many bytes, it is started anew.
const MAX_LENGTH: usize = 256 << 10;

/// How much of the end is kept in memory, to say why a guest died.
const TAIL: usize = 2048;

/// Takes what a guest or its monitor says. A guest may say anything, at any speed.
#[derive(Debug)]
pub(crate) struct Log {
    file: Option<File>,
    length: usize,
    tail: Vec<u8>,
}

impl Log {
    /// Keeps it in a file; without one (it cannot be made, or none is wanted) only the end of it
    /// in memory.
    pub(crate) fn new(path: Option<&Path>) -> Self {
        Self {
            file: path.and_then(|path| File::create(path).ok()),
            length: 0,
            tail: Vec::new(),
        }
    }

    /// Reads once. Whether more can come.
    pub(crate) fn read_from(&mut self, descriptor: &OwnedFd) -> bool {
        let mut buffer = [0; 16 << 10];
        match rustix::io::read(descriptor, &mut buffer) {
            Ok(0) => false,
            Ok(count) => {
                self.append(&buffer[..count]);
                true
            }
            Err(Errno::AGAIN | Errno::INTR) => true,
            Err(_) => false,
        }
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        let surplus = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..surplus);
        if let Some(file) = &mut self.file {
            if self.length + bytes.len() > MAX_LENGTH && file.rewind().is_ok() {
                let _ = file.set_len(0);
                self.length = 0;
            }
            // A full disk must not end the guest.
            if file.write_all(bytes).is_ok() {
                self.length += bytes.len();
            }
        }
    }

    /// The last lines, in one, without what would control a terminal.
    pub(crate) fn last_words(&self) -> String {
        let text = String::from_utf8_lossy(&self.tail);
        let printable = |line: &str| line.replace(char::is_control, "");
        let lines: Vec<String> = text
            .lines()
            .map(|line| printable(line).trim().to_owned())
            .filter(|line| !line.is_empty())
            .collect();
        lines[lines.len().saturating_sub(3)..].join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_stays_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("console.log");
        let mut log = Log::new(Some(&path));
        for _ in 0..1000 {
            log.append(&[b'x'; 4096]);
        }
        log.append(b"\nfirst\r\n\x1b\x07last\n");
        assert!(std::fs::metadata(&path).unwrap().len() <= MAX_LENGTH as u64);
        assert!(log.tail.len() <= TAIL);
        assert!(log.last_words().ends_with("first; last"));
    }
}
