use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use bulkhead_model::Result;

use crate::Digest;
use crate::digest::Digester;
use crate::failure::Context;
use crate::store::{ImageStore, write_cache};

/// Device, inode, size, modification and change time (nanoseconds): a file with the same ones has
/// the same content.
type Identity = [u64; 5];

const RECORD: usize = 5 * 8 + 32;
const MOST_RECORDS: usize = 200_000;
/// A file that was changed this recently may be changed again without its times showing it.
const SETTLED: Duration = Duration::from_secs(2);

/// Remembers the digests of files, so that an unchanged build context is not read again.
#[derive(Debug)]
pub(super) struct FileDigests {
    path: PathBuf,
    known: RefCell<Option<HashMap<Identity, Digest>>>,
    fresh: RefCell<HashMap<Identity, Digest>>,
}

impl FileDigests {
    pub fn new(store: &ImageStore) -> Self {
        Self {
            path: store.directory().join("file-digests"),
            known: RefCell::new(None),
            fresh: RefCell::default(),
        }
    }

    /// The digest of an open file's content.
    pub fn of(&self, file: File) -> Result<Digest> {
        let stat = rustix::fs::fstat(file.as_fd()).context(|| "read a file's metadata")?;
        let time = |seconds: i64, nanoseconds: u64| {
            (seconds as u64)
                .wrapping_mul(1_000_000_000)
                .wrapping_add(nanoseconds)
        };
        let identity = [
            stat.st_dev,
            stat.st_ino,
            stat.st_size as u64,
            time(stat.st_mtime, stat.st_mtime_nsec as u64),
            time(stat.st_ctime, stat.st_ctime_nsec as u64),
        ];
        if let Some(digest) = self
            .known
            .borrow_mut()
            .get_or_insert_with(|| self.load())
            .get(&identity)
        {
            return Ok(*digest);
        }
        let mut digester = Digester::default();
        let mut reader = &file;
        copy_large(&mut reader, &mut digester)?;
        let digest = digester.finish();
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let changed = Duration::from_nanos(identity[3].max(identity[4]));
        if changed + SETTLED < now {
            self.fresh.borrow_mut().insert(identity, digest);
        }
        Ok(digest)
    }

    /// Writes what was learnt.
    pub fn save(&self) -> Result<()> {
        let fresh = self.fresh.take();
        if fresh.is_empty() {
            return Ok(());
        }
        let mut known = self.known.take().unwrap_or_default();
        if known.len() + fresh.len() > MOST_RECORDS {
            known.clear();
        }
        known.extend(fresh);
        let mut bytes = Vec::with_capacity(known.len() * RECORD);
        for (identity, digest) in &known {
            for number in identity {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
            bytes.extend_from_slice(digest.bytes());
        }
        // The digest at the end tells a whole file from a damaged one.
        bytes.extend_from_slice(Digest::of(&bytes).bytes());
        write_cache(&self.path, &bytes)
    }

    fn load(&self) -> HashMap<Identity, Digest> {
        let mut known = HashMap::new();
        let Ok(bytes) = std::fs::read(&self.path) else {
            return known;
        };
        let Some((records, sum)) = bytes.split_last_chunk::<32>() else {
            return known;
        };
        if Digest::of(records).bytes() != sum {
            return known;
        }
        for record in records.chunks_exact(RECORD) {
            let mut identity = [0; 5];
            for (number, bytes) in identity.iter_mut().zip(record.chunks_exact(8)) {
                *number = bytes
                    .iter()
                    .rev()
                    .fold(0, |sum, byte| sum << 8 | u64::from(*byte));
            }
            if let Ok(bytes) = record[40..].try_into() {
                known.insert(identity, Digest::from_bytes(bytes));
            }
        }
        known
    }
}

fn copy_large(reader: &mut impl std::io::Read, digester: &mut Digester) -> Result<()> {
    let mut buffer = vec![0; 1 << 17];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => digester.update(&buffer[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context(|| "read a file"),
        }
    }
}
