//! Starts the helper and leads it through its protocol, up to a process that is ready to exec.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio};

use bulkhead_model::{Error, ProcessIo, ProcessSpec, Result};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::backend::Helper;
use crate::channel::{Channel, Order, Report};
use crate::config::Task;
use crate::failure::Context;
use crate::{program, sys};

/// A process of a container that has been set up, waits for the order to start, and is a child
/// of the calling thread.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) io: ProcessIo,
    /// The terminal, for changes of its size.
    pub(crate) terminal: Option<OwnedFd>,
    pub(crate) pending: Pending,
}

/// The wait for a process to exec.
#[derive(Debug)]
pub(crate) struct Pending(Channel);

impl Pending {
    /// Lets the process exec, and returns when it has.
    pub(crate) fn start(self) -> Result<()> {
        self.0.send(&Order::Start, &[])?;
        // End of file: the socket was closed by exec (or by death, of which `wait` tells).
        self.0.report().map(drop)
    }
}

/// Runs the helper for `task`; `admit` puts the new process into its cgroup.
///
/// # Errors
/// The new process is dead and reaped then.
pub(crate) fn spawn(
    helper: &Helper,
    task: &Task,
    process: &ProcessSpec,
    init: Option<BorrowedFd<'_>>,
    admit: impl FnOnce(u32) -> Result<()>,
) -> Result<Spawned> {
    let streams = Streams::new(process)?;
    let mut descriptors: Vec<BorrowedFd<'_>> = streams.theirs.iter().map(AsFd::as_fd).collect();
    descriptors.extend(init);
    let (ours, pid) = clone_by_helper(helper, task, &descriptors)?;
    prepare(ours, pid, process, streams, admit).inspect_err(|_| end(pid))
}

/// Ends a child process of ours that nobody has waited for: the number cannot be another's.
pub(crate) fn end(pid: u32) {
    let _ = sys::kill(pid as i32, libc::SIGKILL);
    let _ = sys::wait_process(pid as i32, 0);
}

/// Runs the helper up to the clone; the new process waits for `Go`.
fn clone_by_helper(
    helper: &Helper,
    task: &Task,
    descriptors: &[BorrowedFd<'_>],
) -> Result<(Channel, u32)> {
    let (ours, theirs) = Channel::pair()?;
    let program = program::protected(&helper.program)?;
    let mut child = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
        .args(&helper.arguments)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(theirs.into_descriptor()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .host(|| format!("run the helper {}", helper.program.display()))?;
    drop(program);

    let cloned = ours.send(task, descriptors).and_then(|()| ours.report());
    // It ends after its report; where there is none, it may be stuck.
    let pid = match cloned {
        Ok(Some((Report::Cloned(pid), _))) => Ok(pid),
        Ok(_) => Err(Error::channel("the helper ended without a report")),
        Err(error) => Err(error),
    };
    if pid.is_err() {
        let _ = child.kill();
    }
    child.wait().host(|| "wait for the helper".into())?;
    Ok((ours, pid?))
}

fn prepare(
    channel: Channel,
    pid: u32,
    process: &ProcessSpec,
    streams: Streams,
    admit: impl FnOnce(u32) -> Result<()>,
) -> Result<Spawned> {
    let number =
        Pid::from_raw(pid as i32).ok_or_else(|| Error::channel("the helper reported process 0"))?;
    let pidfd = pidfd_open(number, PidfdFlags::empty()).host(|| "open the process".into())?;
    admit(pid)?;
    channel.send(&Order::Go, &[])?;
    let mut master = None;
    if process.terminal.is_some() {
        master = ready(&channel)?.pop();
    }
    ready(&channel)?;
    let terminal = match &master {
        Some(master) => Some(master.try_clone().host(|| "copy a descriptor".into())?),
        None => None,
    };
    Ok(Spawned {
        pid,
        pidfd,
        io: streams.into_io(master, process)?,
        terminal,
        pending: Pending(channel),
    })
}

fn ready(channel: &Channel) -> Result<Vec<OwnedFd>> {
    match channel.report()? {
        Some((Report::Ready, descriptors)) => Ok(descriptors),
        _ => Err(Error::host(
            "the container's process died while it was set up: is its memory limit too low?",
        )),
    }
}

/// Sends a signal by its number.
pub(crate) fn signal(pidfd: &OwnedFd, signal: i32) -> Result<()> {
    if !(1..=64).contains(&signal) {
        return Err(Error::invalid(format!("there is no signal {signal}")));
    }
    match sys::pidfd_send_signal(pidfd.as_fd(), signal) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {
            Err(Error::conflict("the process has ended"))
        }
        result => result.host(|| format!("send signal {signal}")),
    }
}

/// The pipes of a process without a terminal.
struct Streams {
    theirs: Vec<OwnedFd>,
    stdin: Option<OwnedFd>,
    outputs: Option<(OwnedFd, OwnedFd)>,
}

impl Streams {
    fn new(process: &ProcessSpec) -> Result<Self> {
        if process.terminal.is_some() {
            return Ok(Self {
                theirs: Vec::new(),
                stdin: None,
                outputs: None,
            });
        }
        let pipe = || pipe_with(PipeFlags::CLOEXEC).host(|| "make a pipe".into());
        let (their_stdin, stdin) = if process.stdin {
            let (read, write) = pipe()?;
            (read, Some(write))
        } else {
            (
                File::open("/dev/null")
                    .host(|| "open /dev/null".into())?
                    .into(),
                None,
            )
        };
        let (stdout, their_stdout) = pipe()?;
        let (stderr, their_stderr) = pipe()?;
        Ok(Self {
            theirs: vec![their_stdin, their_stdout, their_stderr],
            stdin,
            outputs: Some((stdout, stderr)),
        })
    }

    fn into_io(self, master: Option<OwnedFd>, process: &ProcessSpec) -> Result<ProcessIo> {
        match (self.outputs, master) {
            (Some((stdout, stderr)), _) => Ok(ProcessIo {
                stdin: self.stdin.map(File::from),
                stdout: stdout.into(),
                stderr: Some(stderr.into()),
            }),
            (None, Some(master)) => {
                let stdin = match process.stdin {
                    true => Some(
                        master
                            .try_clone()
                            .host(|| "copy a descriptor".into())?
                            .into(),
                    ),
                    false => None,
                };
                Ok(ProcessIo {
                    stdin,
                    stdout: master.into(),
                    stderr: None,
                })
            }
            (None, None) => Err(Error::channel("the container's process sent no terminal")),
        }
    }
}
