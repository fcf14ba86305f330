//! A file that lines are appended to, and that is exchanged before it grows too large.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use bulkhead_model::{Error, Result};

#[derive(Debug)]
pub(crate) struct RotatingFile {
    path: PathBuf,
    max_bytes: u64,
    keep: u32,
    /// Nothing while the file cannot be opened, as when the disk is full; tried again per line.
    file: Option<BufWriter<File>>,
    size: u64,
    failed: bool,
}

impl RotatingFile {
    pub(crate) fn open(path: &Path, max_bytes: u64, keep: u32) -> Result<Self> {
        let (file, size) = open_for_append(path).map_err(|error| {
            Error::host(format!("open the access log {}", path.display())).with_source(error)
        })?;
        Ok(Self {
            path: path.to_owned(),
            max_bytes,
            keep,
            file: Some(file),
            size,
            failed: false,
        })
    }

    pub(crate) fn write_line(&mut self, mut line: Vec<u8>) {
        line.push(b'\n');
        let result = self.try_write(&line);
        self.note(result);
    }

    pub(crate) fn flush(&mut self) {
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
