//! What the tests of this crate share: archives made by hand, a store that goes away.
#![allow(dead_code, clippy::unwrap_used)]

pub mod project;

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use bulkhead_image::ImageStore;

/// A store in a directory that is removed with the first of the pair.
pub fn store() -> (tempfile::TempDir, ImageStore) {
    let directory = tempfile::tempdir().unwrap();
    let store = ImageStore::open(directory.path().join("images")).unwrap();
    (directory, store)
}

/// A tar archive, also a hostile one: names are taken as they are.
pub struct Archive {
    bytes: Vec<u8>,
}

impl Archive {
    pub fn new() -> Self {
        Self { bytes: Vec::new() }
    }

    pub fn file(mut self, path: &str, content: &[u8]) -> Self {
        if path.len() > 100 {
            self.append(
                b"././@LongLink",
                tar::EntryType::GNULongName,
                path.as_bytes(),
                |_| (),
            );
        }
        self.append(path.as_bytes(), tar::EntryType::Regular, content, |_| ());
        self
    }

    pub fn program(mut self, path: &str, content: &[u8]) -> Self {
        self.append(
            path.as_bytes(),
            tar::EntryType::Regular,
            content,
            |header| {
                header.set_mode(0o755);
            },
        );
        self
    }

    pub fn raw(self, path: &str, content: &[u8]) -> Self {
        self.file(path, content)
    }

    pub fn directory(mut self, path: &str, mode: u32, owner: u64) -> Self {
        self.append(path.as_bytes(), tar::EntryType::Directory, b"", |header| {
            header.set_mode(mode);
            header.set_uid(owner);
            header.set_gid(owner);
        });
        self
    }

    pub fn link(mut self, path: &str, kind: tar::EntryType, target: &str) -> Self {
        self.append(path.as_bytes(), kind, b"", |header| {
            header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        });
        self
    }

    pub fn entry(
        mut self,
        path: &str,
        kind: tar::EntryType,
        change: impl FnOnce(&mut tar::Header),
    ) -> Self {
        self.append(path.as_bytes(), kind, b"", change);
        self
    }

    /// A pax record for the next entry.
    pub fn pax(mut self, key: &str, value: &[u8]) -> Self {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while rest + length.to_string().len() != length {
            length += 1;
        }
        let mut record = format!("{length} {key}=").into_bytes();
        record.extend_from_slice(value);
        record.push(b'\n');
        self.append(b"pax", tar::EntryType::XHeader, &record, |_| ());
        self
    }

    fn append(
        &mut self,
        path: &[u8],
        kind: tar::EntryType,
        content: &[u8],
        change: impl FnOnce(&mut tar::Header),
    ) {
        let mut header = tar::Header::new_gnu();
        let length = path.len().min(100);
        header.as_old_mut().name[..length].copy_from_slice(&path[..length]);
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        change(&mut header);
        header.set_cksum();
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(&[0; 1024]);
        self.bytes
    }
}

/// Runs `input` through a program; `None` if it is not installed.
pub fn filter(program: &str, input: &[u8]) -> Option<Vec<u8>> {
    let mut child = Command::new(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let mut output = Vec::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_end(&mut output)
        .unwrap();
    writer.join().unwrap().unwrap();
    assert!(child.wait().unwrap().success());
    Some(output)
}

pub fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    let length = rustix::fs::lgetxattr(path, name, &mut value).ok()?;
    value.truncate(length);
    Some(value)
}

pub fn opaque(path: &Path) -> Option<Vec<u8>> {
    xattr(path, "trusted.overlay.opaque")
}

pub fn nothing_temporary(store: &ImageStore) {
    let temporary = store.directory().join("temporary");
    assert_eq!(std::fs::read_dir(temporary).unwrap().count(), 0);
}

pub fn is_mounted(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.contains(path.to_str().unwrap())
}
