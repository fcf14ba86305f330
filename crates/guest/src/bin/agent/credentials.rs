//! Whom a process runs as, and what it may do.

use std::fs::File;
use std::io::Read;

use bulkhead_guest::Configuration;
use bulkhead_model::capability::{NAMES, selected};
use bulkhead_model::user::{ResolvedUser, resolve};
use bulkhead_model::{Error, ProcessSpec, Result};
use rustix::process::{Gid, Resource, Rlimit, Uid, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

/// A guest's root has them all.
const ALL: u64 = (1 << NAMES.len()) - 1;

/// The set of capabilities, as bits, that the process may have.
///
/// # Errors
/// `InvalidInput` for a name that is no capability.
pub fn allowed_capabilities(configuration: &Configuration, process: &ProcessSpec) -> Result<u64> {
    if configuration.privileged || process.privileged {
        return Ok(ALL);
    }
    selected(
        &configuration.capabilities_add,
        &configuration.capabilities_drop,
        ALL,
    )
}

/// Resolves the user in the files of the root that the caller is in.
pub fn resolve_user(user: &str) -> Result<ResolvedUser> {
    resolve(user, &text("/etc/passwd"), &text("/etc/group"))
}

/// The file's text; nothing where it is no file, and no more than a sane file has.
fn text(path: &str) -> String {
    let mut text = Vec::new();
    if std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file())
        && let Ok(file) = File::open(path)
    {
        // What was read before an error is as good as any.
        let _ = file.take(4 << 20).read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Turns the calling process into the user's, with no more than the allowed capabilities.
pub fn assume(
    user: &ResolvedUser,
    allowed: u64,
    no_new_privileges: bool,
) -> rustix::io::Result<()> {
    for number in 0..NAMES.len() {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if allowed & (1 << number) == 0 {
            rustix::thread::remove_capability_from_bounding_set(capability)?;
        }
    }
    let groups: Vec<Gid> = user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    rustix::thread::set_thread_groups(&groups)?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    // Leaving user 0 clears the capabilities; staying it, they are what is given here.
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    if user.uid == 0 {
        let set = CapabilitySet::from_bits_retain(allowed);
        rustix::thread::set_capabilities(
            None,
            CapabilitySets {
                effective: set,
                permitted: set,
                inheritable: CapabilitySet::empty(),
            },
        )?;
    }
    if no_new_privileges {
        rustix::thread::set_no_new_privs(true)?;
    }
    Ok(())
}

/// Sets the limits of `setrlimit(2)`.
pub fn limit(configuration: &Configuration) -> Result<()> {
    for ulimit in &configuration.ulimits {
        let resource = match ulimit.name.as_str() {
            "as" => Resource::As,
            "core" => Resource::Core,
            "cpu" => Resource::Cpu,
            "data" => Resource::Data,
            "fsize" => Resource::Fsize,
            "locks" => Resource::Locks,
            "memlock" => Resource::Memlock,
            "msgqueue" => Resource::Msgqueue,
            "nice" => Resource::Nice,
            "nofile" => Resource::Nofile,
            "nproc" => Resource::Nproc,
            "rss" => Resource::Rss,
            "rtprio" => Resource::Rtprio,
            "rttime" => Resource::Rttime,
            "sigpending" => Resource::Sigpending,
            "stack" => Resource::Stack,
            other => return Err(Error::invalid(format!("unknown ulimit '{other}'"))),
        };
        let bound = |value: u64| (value != u64::MAX).then_some(value);
        let limit = Rlimit {
            current: bound(ulimit.soft),
            maximum: bound(ulimit.hard),
        };
        setrlimit(resource, limit).map_err(|errno| {
            Error::host(format!("set the ulimit {}", ulimit.name)).with_source(errno)
        })?;
    }
    Ok(())
}
