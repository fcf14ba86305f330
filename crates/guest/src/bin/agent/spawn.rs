//! Starts processes: the workload in namespaces of its own, or one more process beside it.
//!
//! The child reports what went wrong before its program ran over a pipe that a successful exec
//! closes, so that the caller knows which it was.

use std::convert::Infallible;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use bulkhead_guest::codec::Wire;
use bulkhead_guest::{Configuration, Reply};
use bulkhead_model::{Error, ErrorKind, ProcessSpec, Result, TerminalSize};
use rustix::fs::{Access, AtFlags, CWD, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_move};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags};
use rustix::termios::Winsize;
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType};

use crate::boot::ROOT;
use crate::{cgroup, credentials, init, rootfs, sys};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A process that runs, with the agent's ends of its streams; none of them blocks.
#[derive(Debug)]
pub struct Spawned {
    pub pid: Pid,
    pub stdin: Option<OwnedFd>,
    pub stdout: OwnedFd,
    pub stderr: Option<OwnedFd>,
    /// The terminal's controlling end, to set its size.
    pub terminal: Option<OwnedFd>,
}

/// The child's ends.
struct ChildStreams {
    stdin: Option<OwnedFd>,
    stdout: OwnedFd,
    /// `None` on a terminal, which is then all three.
    stderr: Option<OwnedFd>,
}

/// Starts the workload.
pub fn spawn_workload(configuration: &Configuration) -> Result<Spawned> {
    let process = &configuration.process;
    start(process, |failure, streams| {
        let flags = libc::CLONE_NEWPID | libc::CLONE_NEWNS;
        let child = sys::fork(flags)
            .map_err(|error| Error::host("fork the workload in the guest").with_source(error))?;
        if child.is_some() {
            return Ok(child);
        }
        let result = enter_new_root(configuration)
            .and_then(|()| {
                if configuration.init {
                    init::become_init()?;
                }
                Ok(())
            })
            .and_then(|()| execute(process, configuration, streams));
        report(failure, result)
    })
}

/// Starts one more process in the namespaces of the workload.
pub fn spawn_beside(
    process: &ProcessSpec,
    configuration: &Configuration,
    workload: Pid,
) -> Result<Spawned> {
    let failed = |errno: Errno| {
        Error::conflict("the sandbox is not running: its workload has ended").with_source(errno)
    };
    let target = rustix::process::pidfd_open(workload, PidfdFlags::empty()).map_err(failed)?;
    start(process, |failure, streams| {
        // Only children are moved by this; the agent itself stays in its own namespace.
        let own = rustix::fs::open("/proc/self/ns/pid", OFlags::CLOEXEC, Mode::empty());
        let own = own.map_err(failed)?;
        rustix::thread::move_into_thread_name_spaces(
            target.as_fd(),
            ThreadNameSpaceType::PROCESS_ID,
        )
        .map_err(failed)?;
        let child = sys::fork(0);
        if matches!(child, Ok(None)) {
            let result = enter_workload(target.as_fd(), configuration)
                .and_then(|()| execute(process, configuration, streams));
            report(failure, result)
        }
        rustix::thread::move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::ProcessID))
            .map_err(failed)?;
        child.map_err(|error| {
            Error::conflict("the sandbox is not running: its workload is ending").with_source(error)
        })
    })
}

/// Makes the streams, lets `fork` make the child, and waits until its program runs or has failed.
fn start(
    process: &ProcessSpec,
    fork: impl FnOnce(&OwnedFd, &ChildStreams) -> Result<Option<Pid>>,
) -> Result<Spawned> {
    let failed =
        |errno: Errno| Error::host("make a process's streams in the guest").with_source(errno);
    let (mut spawned, streams) = match process.terminal {
        Some(size) => terminal_streams(size).map_err(failed)?,
        None => pipe_streams(process.stdin).map_err(failed)?,
    };
    let (failure, failure_writer) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
    let child = fork(&failure_writer, &streams)?;
    spawned.pid = child.ok_or_else(|| Error::host("a child returned from its fork"))?;
    drop((streams, failure_writer));
    let mut bytes = Vec::new();
    File::from(failure)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::host("wait for a process to start").with_source(error))?;
    if !bytes.is_empty() {
        let reply = Reply::decode(&mut bytes.as_slice())
            .map_err(|error| Error::host("read why a process did not start").with_source(error))?;
        reply.into_result()?;
    }
    Ok(spawned)
}

fn report(failure: &OwnedFd, result: Result<Infallible>) -> ! {
    let Err(error) = result;
    let mut bytes = Vec::new();
    Reply::failed(&error).encode(&mut bytes);
    // The agent is gone if this fails, and with it everything else.
    let _ = rustix::io::write(failure, &bytes);
    sys::exit(127)
}

fn pipe_streams(stdin: bool) -> rustix::io::Result<(Spawned, ChildStreams)> {
    let output = || -> rustix::io::Result<(OwnedFd, OwnedFd)> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::fs::fcntl_setfl(&reader, OFlags::NONBLOCK)?;
        Ok((reader, writer))
    };
    let (stdout, child_stdout) = output()?;
    let (stderr, child_stderr) = output()?;
    let (stdin, child_stdin) = if stdin {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::fs::fcntl_setfl(&writer, OFlags::NONBLOCK)?;
        (Some(writer), Some(reader))
    } else {
        (None, None)
    };
    let spawned = Spawned {
        pid: Pid::INIT,
        stdin,
        stdout,
        stderr: Some(stderr),
        terminal: None,
    };
    let streams = ChildStreams {
        stdin: child_stdin,
        stdout: child_stdout,
        stderr: Some(child_stderr),
    };
    Ok((spawned, streams))
}

fn terminal_streams(size: TerminalSize) -> rustix::io::Result<(Spawned, ChildStreams)> {
    let path = PathBuf::from(ROOT).join("dev/pts/ptmx");
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let terminal = rustix::fs::open(path, flags, Mode::empty())?;
    rustix::pty::unlockpt(&terminal)?;
    let flags = rustix::pty::OpenptFlags::RDWR
        | rustix::pty::OpenptFlags::NOCTTY
        | rustix::pty::OpenptFlags::CLOEXEC;
    let child = rustix::pty::ioctl_tiocgptpeer(&terminal, flags)?;
    resize(&terminal, size)?;
    let spawned = Spawned {
        pid: Pid::INIT,
        stdin: Some(terminal.try_clone().map_err(|_| Errno::MFILE)?),
        stdout: terminal.try_clone().map_err(|_| Errno::MFILE)?,
        stderr: None,
        terminal: Some(terminal),
    };
    let streams = ChildStreams {
        stdin: None,
        stdout: child,
        stderr: None,
    };
    Ok((spawned, streams))
}

pub fn resize(terminal: &OwnedFd, size: TerminalSize) -> rustix::io::Result<()> {
    rustix::termios::tcsetwinsize(
        terminal,
        Winsize {
            ws_row: size.rows,
            ws_col: size.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        },
    )
}

/// Makes the sandbox's root the root of this process, whose namespaces are new.
fn enter_new_root(configuration: &Configuration) -> Result<()> {
    let failed = |error: std::io::Error| {
        Error::host("enter the sandbox's root in the guest").with_source(error)
    };
    let steps = || -> std::io::Result<()> {
        cgroup::join()?;
        sys::unshare(libc::CLONE_NEWCGROUP)?;
        set_oom_score(configuration)?;
        let flags = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
        let system = match configuration.privileged {
            true => flags,
            false => flags | MountFlags::RDONLY,
        };
        mount(
            "proc",
            rootfs::mount_point("proc")?.path(),
            "proc",
            flags,
            None,
        )?;
        mount(
            "sysfs",
            rootfs::mount_point("sys")?.path(),
            "sysfs",
            system,
            None,
        )?;
        let cgroup = rootfs::mount_point("sys/fs/cgroup")?;
        mount("cgroup2", cgroup.path(), "cgroup2", system, None)?;
        rustix::process::chdir(ROOT)?;
        mount_move(".", "/")?;
        rustix::process::chroot(".")?;
        rustix::process::chdir("/")?;
        if !configuration.privileged {
            rootfs::mask_paths()?;
        }
        Ok(())
    };
    steps().map_err(failed)
}

fn enter_workload(
    workload: std::os::fd::BorrowedFd<'_>,
    configuration: &Configuration,
) -> Result<()> {
    let steps = || -> std::io::Result<()> {
        cgroup::join()?;
        set_oom_score(configuration)?;
        let types = ThreadNameSpaceType::MOUNT | ThreadNameSpaceType::CONTROL_GROUP;
        rustix::thread::move_into_thread_name_spaces(workload, types)?;
        Ok(())
    };
    steps().map_err(|error| {
        Error::conflict("the sandbox is not running: its workload has ended").with_source(error)
    })
}

/// The agent itself must never be the one to be killed; what it starts may.
fn set_oom_score(configuration: &Configuration) -> std::io::Result<()> {
    let score = configuration.oom_score_adj.unwrap_or(0);
    std::fs::write("/proc/self/oom_score_adj", score.to_string())
}

/// Runs the program in this process, which is inside the sandbox's root.
fn execute(
    process: &ProcessSpec,
    configuration: &Configuration,
    streams: &ChildStreams,
) -> Result<Infallible> {
    let failed = |what: &str, errno: Errno| Error::host(what.to_owned()).with_source(errno);
    let user = credentials::resolve_user(&process.user)?;
    let allowed = credentials::allowed_capabilities(configuration, process)?;
    credentials::limit(configuration)?;
    connect(process, streams, user.uid, user.gid)
        .map_err(|error| Error::host("connect a process's streams").with_source(error))?;
    enter_directory(&process.cwd)?;
    credentials::assume(&user, allowed, configuration.no_new_privileges)
        .map_err(|errno| failed("set a process's user and capabilities", errno))?;
    let mut env: Vec<(String, String)> = Vec::new();
    for entry in &process.env {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        env.push((name.to_owned(), value.to_owned()));
    }
    if !env.iter().any(|(name, _)| name == "HOME") {
        env.push(("HOME".to_owned(), user.home));
    }
    let path = env
        .iter()
        .rev()
        .find(|(name, _)| name == "PATH")
        .map_or(DEFAULT_PATH, |(_, value)| value);
    let Some((name, arguments)) = process.args.split_first() else {
        return Err(Error::invalid(
            "no command is given, and the image has none",
        ));
    };
    let program = find_program(name, path)?;
    sys::reset_signals();
    let error = Command::new(&program)
        .arg0(name)
        .args(arguments)
        .env_clear()
        .envs(env)
        .exec();
    Err(not_run(
        name,
        Errno::from_io_error(&error).unwrap_or(Errno::IO),
    ))
}

fn connect(
    process: &ProcessSpec,
    streams: &ChildStreams,
    uid: u32,
    gid: u32,
) -> std::io::Result<()> {
    rustix::process::setsid()?;
    let null;
    let stdin = match (&streams.stdin, process.terminal) {
        (Some(stdin), _) => stdin,
        (None, Some(_)) => &streams.stdout,
        (None, None) => {
            null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
            &null
        }
    };
    let stderr = streams.stderr.as_ref().unwrap_or(&streams.stdout);
    for (descriptor, number) in [(stdin, 0), (&streams.stdout, 1), (stderr, 2)] {
        sys::duplicate_onto(descriptor.as_fd(), number)?;
    }
    if process.terminal.is_some() {
        rustix::process::ioctl_tiocsctty(&streams.stdout)?;
    }
    // So that the user can open /dev/stdout and its like; /dev/null is not given away.
    let owned = [
        streams.stdin.as_ref(),
        Some(&streams.stdout),
        streams.stderr.as_ref(),
    ];
    for descriptor in owned.into_iter().flatten() {
        let group = process.terminal.is_none().then_some(Gid::from_raw(gid));
        rustix::fs::fchown(descriptor, Some(Uid::from_raw(uid)), group)?;
    }
    Ok(())
}

fn enter_directory(cwd: &str) -> Result<()> {
    let cwd = if cwd.is_empty() { "/" } else { cwd };
    let failed = |error: std::io::Error| {
        Error::invalid(format!("enter the working directory {cwd}")).with_source(error)
    };
    match rustix::process::chdir(cwd) {
        Err(Errno::NOENT) => {
            std::fs::create_dir_all(cwd).map_err(failed)?;
            rustix::process::chdir(cwd).map_err(|errno| failed(errno.into()))
        }
        other => other.map_err(|errno| failed(errno.into())),
    }
}

/// Looks the program up as `execvp(3)` does.
fn find_program(name: &str, path: &str) -> Result<PathBuf> {
    if name.contains('/') {
        return Ok(PathBuf::from(name));
    }
    let mut found = Errno::NOENT;
    for directory in path.split(':').filter(|_| !name.is_empty()) {
        let directory = if directory.is_empty() { "." } else { directory };
        let candidate = Path::new(directory).join(name);
        if !candidate.is_file() {
            continue;
        }
        match rustix::fs::accessat(CWD, &candidate, Access::EXEC_OK, AtFlags::EACCESS) {
            Ok(()) => return Ok(candidate),
            Err(errno) => found = errno,
        }
    }
    Err(not_run(name, found))
}

fn not_run(name: &str, errno: Errno) -> Error {
    match errno {
        Errno::NOENT if !name.contains('/') => Error::new(
            ErrorKind::CommandNotFound,
            format!("exec: \"{name}\": executable file not found in $PATH"),
        ),
        Errno::NOENT | Errno::NOTDIR => Error::new(
            ErrorKind::CommandNotFound,
            format!("exec: \"{name}\": no such file or directory"),
        ),
        errno => Error::new(ErrorKind::CommandNotExecutable, format!("exec: \"{name}\""))
            .with_source(errno),
    }
}
