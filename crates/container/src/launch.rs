//! The last part of a process's set-up, inside the container: descriptors, user, capabilities,
//! filter, exec.
//!
//! Invariant: from here on nothing is dropped: the process execs or exits, so that closing all
//! descriptors under their owners is sound.

use std::collections::HashSet;
use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use bulkhead_model::user::{self, ResolvedUser};
use bulkhead_model::{Error, ErrorKind, Result};
use rustix::fs::{FileType, Gid, Mode, OFlags, Uid, fchown, fstat, major, minor};
use rustix::io::Errno;

use crate::channel::{Channel, Report};
use crate::config::Workload;
use crate::failure::Context;
use crate::reaper;
use crate::resolve::Root;
use crate::seccomp::Filter;
use crate::sys::{self, StringVector};
use crate::trace;

/// Where the search for a program goes without a `PATH`, as Docker sets it.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The first number after the standard streams.
const FIRST: i32 = 3;

/// The standard streams of a process.
#[derive(Debug)]
pub(crate) enum Streams {
    /// stdin, stdout, stderr.
    Pipes([OwnedFd; 3]),
    /// The slave of a terminal, which becomes the controlling one.
    Terminal(OwnedFd),
}

/// Whom the workload runs as, by the container's own files.
pub(crate) fn resolve_user(root: &Root, workload: &Workload) -> Result<ResolvedUser> {
    let passwd = root.read("/etc/passwd")?;
    let group = root.read("/etc/group")?;
    let Some(identity) = &workload.user else {
        return user::resolve(&workload.process.user, &passwd, &group);
    };
    let home = user::resolve(&identity.uid.to_string(), &passwd, &group)?.home;
    Ok(ResolvedUser {
        uid: identity.uid,
        gid: identity.gid,
        groups: identity.groups.clone(),
        home,
    })
}

/// Becomes the workload, with `extra` at the descriptors 3 and above; whatever fails is reported
/// over the channel. `before` is what is still to be done as the workload's user, under its
/// filter.
pub(crate) fn launch(
    workload: &Workload,
    user: &ResolvedUser,
    streams: Streams,
    extra: Vec<OwnedFd>,
    channel: Channel,
    before: impl FnOnce() -> Result<()>,
) -> ! {
    // Above all numbers that are about to be overwritten: it has to tell of whatever fails.
    let above = FIRST + extra.len() as i32;
    let (channel, failure) = match rustix::io::fcntl_dupfd_cloexec(&channel, above) {
        Ok(raised) => {
            let raised = Channel::from_descriptor(raised);
            drop(channel);
            let Err(error) = become_workload(workload, user, streams, extra, &raised, before);
            (raised, error)
        }
        Err(error) => (
            channel,
            Error::host("place the standard streams").with_source(std::io::Error::from(error)),
        ),
    };
    let _ = channel.write(&Report::Failed(failure.into()));
    sys::exit_now(1)
}

fn become_workload(
    workload: &Workload,
    user: &ResolvedUser,
    streams: Streams,
    extra: Vec<OwnedFd>,
    channel: &Channel,
    before: impl FnOnce() -> Result<()>,
) -> Result<Infallible> {
    let has_terminal = matches!(streams, Streams::Terminal(_));
    place_descriptors(streams, extra, channel)?;
    rustix::process::setsid().host(|| "start a session".into())?;
    if has_terminal {
        sys::set_controlling_terminal(rustix::stdio::stdin())
            .host(|| "set the controlling terminal".into())?;
    }
    take_own_null()?;
    own_streams(user)?;
    if workload.new_keyring {
        sys::new_session_keyring().host(|| "start a session keyring".into())?;
    }
    let arguments = strings(workload.process.args.iter().cloned())?;
    let environment = strings(environment(workload, user).into_iter())?;
    rustix::process::umask(Mode::from_raw_mode(workload.umask));
    // The user may enter directories that root may not, on a network filesystem.
    let changed = change_directory(&workload.process.cwd)?;
    set_limits(workload)?;
    drop_privileges(workload, user, channel)?;
    if !changed && !change_directory(&workload.process.cwd)? {
        return Err(Error::host(format!(
            "change to the working directory {}: permission denied",
            workload.process.cwd
        )));
    }
    before()?;
    sys::reset_signals();
    if workload.init {
        reaper::stay_as_init(has_terminal)?;
    }
    Err(execute(workload, arguments, environment))
}

fn set_limits(workload: &Workload) -> Result<()> {
    for limit in &workload.limits {
        sys::set_resource_limit(limit.resource, limit.soft, limit.hard).host(|| {
            let bound = if limit.resource == libc::RLIMIT_NOFILE as u32 {
                ", and none may be above /proc/sys/fs/nr_open"
            } else {
                ""
            };
            format!(
                "set the limit {} to {}:{}: raising a hard limit needs CAP_SYS_RESOURCE{bound}",
                limit.name, limit.soft, limit.hard
            )
        })?;
    }
    Ok(())
}

/// stdin, stdout and stderr at 0 to 2, what was asked for above them, the channel until exec, and
/// nothing else: whatever was inherited is gone (CVE-2024-21626).
fn place_descriptors(streams: Streams, extra: Vec<OwnedFd>, channel: &Channel) -> Result<()> {
    let doing = || "place the standard streams".to_owned();
    let first = FIRST + extra.len() as i32;
    let high =
        |descriptor: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(descriptor, first).host(doing);
    let mut copies: Vec<OwnedFd> = match &streams {
        Streams::Pipes(pipes) => pipes.iter().map(high).collect::<Result<_>>()?,
        Streams::Terminal(slave) => (0..3).map(|_| high(slave)).collect::<Result<_>>()?,
    };
    for descriptor in &extra {
        copies.push(high(descriptor)?);
    }
    drop((streams, extra));
    trace::phase("about to execute");
    trace::end();
    for (number, stream) in copies.iter().enumerate() {
        sys::duplicate_to(stream.as_fd(), number as i32, false).host(doing)?;
    }
    // Closed with all others, and not once more when they would be dropped.
    std::mem::forget(copies);
    sys::close_others(first as u32, Some(channel.as_fd().as_raw_fd()))
        .host(|| "close all other descriptors".into())
}

/// Has streams that are the host's `/dev/null` be the container's own: one of the host's mounts
/// cannot be checkpointed with the container, and need not be held.
fn take_own_null() -> Result<()> {
    let is_null = |status: &rustix::fs::Stat| {
        FileType::from_raw_mode(status.st_mode) == FileType::CharacterDevice
            && (major(status.st_rdev), minor(status.st_rdev)) == (1, 3)
    };
    let doing = || "open the container's /dev/null".to_owned();
    for number in 0..FIRST {
        let stream = sys::duplicate(number).host(doing)?;
        if !is_null(&fstat(&stream).host(doing)?) {
            continue;
        }
        // It may be anything in the image: what is none is not taken.
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY;
        let Ok(own) = rustix::fs::open("/dev/null", flags | OFlags::CLOEXEC, Mode::empty()) else {
            continue;
        };
        if is_null(&fstat(&own).host(doing)?) {
            sys::duplicate_to(own.as_fd(), number, false).host(doing)?;
        }
    }
    Ok(())
}

/// Gives the streams to the user, who otherwise could not open `/dev/stdout` again.
fn own_streams(user: &ResolvedUser) -> Result<()> {
    for stream in [
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
    ] {
        let doing = || "give the standard streams to the user".to_owned();
        let status = fstat(stream).host(doing)?;
        let uid = Some(Uid::from_raw(user.uid));
        match FileType::from_raw_mode(status.st_mode) {
            FileType::Fifo => own(fchown(stream, uid, Some(Gid::from_raw(user.gid)))),
            // A terminal stays with the group `tty`; anything else (`/dev/null`) is not ours.
            FileType::CharacterDevice if rustix::termios::isatty(stream) => {
                own(fchown(stream, uid, None))
            }
            _ => Ok(()),
        }
        .host(doing)?;
    }
    Ok(())
}

/// A stream that a user namespace has no id for, or that lies on a read-only filesystem, stays
/// with its owner.
fn own(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::PERM | Errno::INVAL | Errno::ROFS) => Ok(()),
        result => result,
    }
}

/// False if the caller may not enter the directory.
///
/// # Errors
/// `Host` also if the directory turns out to be outside the root.
fn change_directory(cwd: &str) -> Result<bool> {
    let doing = || format!("change to the working directory {cwd}");
    match rustix::process::chdir(cwd) {
        Err(Errno::ACCESS | Errno::PERM) => return Ok(false),
        result => result.host(doing)?,
    }
    let path = rustix::process::getcwd(Vec::new()).host(doing)?;
    if path.to_bytes().first() != Some(&b'/') {
        return Err(Error::host(format!(
            "{}: it is outside the container",
            doing()
        )));
    }
    Ok(true)
}

/// In the user namespace of an ordinary user nobody may drop groups, who would thereby gain what is
/// denied to them: they stay (user_namespaces(7), "/proc/PID/setgroups").
fn set_groups(workload: &Workload, user: &ResolvedUser) -> Result<()> {
    match sys::set_groups(&user.groups) {
        Err(error)
            if workload.in_user_namespace
                && user.groups.is_empty()
                && error.raw_os_error() == Some(libc::EPERM) =>
        {
            Ok(())
        }
        result => result.host(|| {
            format!(
                "set the supplementary groups {:?}: an ordinary user's container needs \
                 newgidmap(1) and mappings of more than one group for them",
                user.groups
            )
        }),
    }
}

fn drop_privileges(workload: &Workload, user: &ResolvedUser, channel: &Channel) -> Result<()> {
    let capabilities = &workload.capabilities;
    // Without no_new_privs a filter can only be installed while we have CAP_SYS_ADMIN.
    if let (Some(filter), false) = (&workload.filter, workload.no_new_privileges) {
        install(filter, channel)?;
    }
    let doing = || "set the capabilities".to_owned();
    capabilities.limit_bounding().host(doing)?;
    sys::set_keep_capabilities(true).host(doing)?;
    set_groups(workload, user)?;
    sys::set_user(user.uid, user.gid).host(|| format!("become user {}:{}", user.uid, user.gid))?;
    capabilities.apply().host(doing)?;
    sys::set_keep_capabilities(false).host(doing)?;
    if workload.tied {
        // Changing the user has taken the wish to die with the parent away.
        sys::set_parent_death_signal(libc::SIGKILL).host(|| "set the death signal".into())?;
    }
    if workload.no_new_privileges {
        sys::set_no_new_privileges().host(|| "set no_new_privs".into())?;
        if let Some(filter) = &workload.filter {
            install(filter, channel)?;
        }
    }
    Ok(())
}

/// A listener's descriptor is fetched by the runtime: to send it would take calls that the filter
/// may hand to that very listener.
fn install(filter: &Filter, channel: &Channel) -> Result<()> {
    if let Some(listener) = filter.install()? {
        channel.write(&Report::Listening(listener.as_raw_fd()))?;
        channel.await_order_by_read()?;
    }
    Ok(())
}

/// The variables of the workload, each once with its last value; `HOME` is the user's unless it
/// has a value.
pub(crate) fn environment(workload: &Workload, user: &ResolvedUser) -> Vec<String> {
    let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let mut seen = HashSet::new();
    let mut entries: Vec<String> = Vec::with_capacity(workload.process.env.len() + 1);
    for entry in workload.process.env.iter().rev() {
        if seen.insert(name(entry)) && entry != "HOME=" {
            entries.push(entry.clone());
        }
    }
    entries.reverse();
    if !entries.iter().any(|entry| entry.starts_with("HOME=")) {
        entries.push(format!("HOME={}", user.home));
    }
    entries
}

fn strings(strings: impl Iterator<Item = String>) -> Result<StringVector> {
    let strings = strings
        .map(CString::new)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Error::invalid("an argument contains a NUL byte").with_source(error))?;
    Ok(StringVector::new(strings))
}

/// The `PATH` of the workload's own environment.
pub(crate) fn search_path(workload: &Workload) -> &str {
    let mut entries = workload.process.env.iter().rev();
    entries
        .find_map(|entry| entry.strip_prefix("PATH="))
        .unwrap_or(DEFAULT_PATH)
}

/// Execs the program, looked up as `execvp(3)` does; returns the reason if it cannot be.
fn execute(workload: &Workload, arguments: StringVector, environment: StringVector) -> Error {
    let program = workload.process.args.first().map_or("", String::as_str);
    let candidates: Vec<String> = if program.contains('/') {
        vec![program.to_owned()]
    } else {
        search_path(workload)
            .split(':')
            .map(|directory| if directory.is_empty() { "." } else { directory })
            .map(|directory| format!("{directory}/{program}"))
            .collect()
    };
    let mut refused = None;
    for candidate in candidates {
        let Ok(path) = CString::new(candidate) else {
            continue;
        };
        let error = sys::execute(&path, &arguments, &environment);
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR | libc::ENAMETOOLONG | libc::ELOOP) => {}
            _ => {
                refused.get_or_insert(error);
            }
        }
    }
    match refused {
        Some(error) => Error::new(ErrorKind::CommandNotExecutable, format!("exec {program}"))
            .with_source(error),
        None if program.contains('/') => Error::new(
            ErrorKind::CommandNotFound,
            format!("'{program}' does not exist in the image (or the interpreter that it needs)"),
        ),
        None => Error::new(
            ErrorKind::CommandNotFound,
            format!("'{program}' is not in the PATH of the image"),
        ),
    }
}
