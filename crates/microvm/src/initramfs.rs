//! The guest's first file system: the agent and nothing else, as a cpio archive ("newc", which
//! the kernel documents in `Documentation/driver-api/early-userspace/buffer-format.rst`).

use std::path::{Path, PathBuf};

use bulkhead_model::{Error, Result};

use crate::cache::{self, fingerprint};

/// The agent, as `build.rs` made it.
const AGENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/bulkhead-agent"));

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// The archive's path; it is made where the cache does not have it.
pub(crate) fn ensure(cache_dir: &Path) -> Result<PathBuf> {
    let archive = archive(AGENT);
    let path = cache_dir.join(format!("agent-{:016x}.cpio", fingerprint(&archive)));
    if !path.exists() {
        cache::write(&path, &archive)
            .map_err(|error| Error::host(format!("write {}", path.display())).with_source(error))?;
    }
    Ok(path)
}

fn archive(agent: &[u8]) -> Vec<u8> {
    let mut archive = Vec::with_capacity(agent.len() + 1024);
    append(&mut archive, "dev", DIRECTORY, (0, 0), &[]);
    // PID 1's own streams are this device.
    append(&mut archive, "dev/console", CHARACTER_DEVICE, (5, 1), &[]);
    append(&mut archive, "init", PROGRAM, (0, 0), agent);
    append(&mut archive, "TRAILER!!!", 0, (0, 0), &[]);
    archive
}

fn append(archive: &mut Vec<u8>, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
    let number = archive.len() as u32 + 1;
    let header = [
        number,
        mode,
        0,
        0,
        1,
        0,
        content.len() as u32,
        0,
        0,
        device.0,
        device.1,
        name.len() as u32 + 1,
        0,
    ];
    archive.extend_from_slice(b"070701");
    for field in header {
        archive.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    pad(archive);
    archive.extend_from_slice(content);
    pad(archive);
}

fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_the_archive_ends() {
        let archive = archive(b"12345");
        assert_eq!(archive.len() % 4, 0);
        assert!(archive.starts_with(b"070701"));
        let text = String::from_utf8_lossy(&archive);
        let end = text.find("TRAILER!!!").expect("a trailer");
        assert!(text.find("12345").expect("the content") < end);
    }
}
