//! Runs a program through a re-executed, single-threaded copy of ourselves.
//!
//! The monitor needs things done between fork and exec: to die with its supervisor, to see a file
//! share that is mounted for it alone, to be in a control group, and to inherit descriptors. The
//! supervisor has threads, so nothing of ours may run there; it executes the launcher instead and
//! tells it over its standard input, a socket, what to do and which descriptors to pass on.

use std::fs;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use bulkhead_guest::codec::Wire;
use bulkhead_model::{Error, Result};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, FdFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::Signal;

use crate::rootfs;

/// The kernel passes no more descriptors in one message.
const MAX_DESCRIPTORS: usize = 253;

/// How to run our own binary so that it becomes the launcher ([`monitor_main`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launcher {
    pub program: PathBuf,
    /// What comes before the launcher's own arguments: the hidden subcommand's name.
    pub arguments: Vec<String>,
}

impl Launcher {
    pub(crate) fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).arg(verb);
        command
    }
}

/// A file of the host that the monitor alone sees in a directory of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StagedFile {
    /// Made for it, empty, in the sandbox's run directory.
    pub directory: PathBuf,
    pub name: String,
    pub source: PathBuf,
}

/// What the launcher is to do.
#[derive(Debug, Default)]
pub(crate) struct Launch {
    pub program: PathBuf,
    /// `{0}`, `{1}`, … stand for the numbers of the descriptors.
    pub arguments: Vec<String>,
    pub descriptors: Vec<OwnedFd>,
    pub control_groups: Vec<PathBuf>,
    pub staged: Vec<StagedFile>,
}

/// Starts the program. It dies with the **thread** that calls this.
pub(crate) fn spawn(launcher: &Launcher, launch: Launch, stderr: Stdio) -> Result<Child> {
    let failed = |errno: Errno| Error::host("talk to the launcher").with_source(errno);
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(failed)?;
    let mut bytes = Vec::new();
    std::process::id().encode(&mut bytes);
    text(&launch.program)?.encode(&mut bytes);
    launch.arguments.encode(&mut bytes);
    let groups = launch.control_groups.iter().map(|path| text(path));
    groups.collect::<Result<Vec<_>>>()?.encode(&mut bytes);
    let mut staged = Vec::new();
    for file in &launch.staged {
        staged.push(text(&file.directory)?);
        staged.push(file.name.clone());
        staged.push(text(&file.source)?);
    }
    staged.encode(&mut bytes);
    let borrowed: Vec<BorrowedFd<'_>> = launch.descriptors.iter().map(|fd| fd.as_fd()).collect();
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if borrowed.len() > MAX_DESCRIPTORS || !control.push(SendAncillaryMessage::ScmRights(&borrowed))
    {
        return Err(Error::invalid(
            "the sandbox has more network interfaces than a monitor can be given",
        ));
    }
    let message = [IoSlice::new(&bytes)];
    sendmsg(&ours, &message, &mut control, SendFlags::NOSIGNAL).map_err(failed)?;
    launcher
        .command("exec")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()
        .map_err(|error| {
            Error::host(format!("run {}", launcher.program.display())).with_source(error)
        })
}

/// The paths that go into a monitor's arguments are texts.
pub(crate) fn text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        Error::invalid(format!(
            "the path {} is not UTF-8: a micro VM cannot be given it",
            path.display()
        ))
    })
}

/// Entry point of the hidden subcommand: what follows the subcommand's name are `arguments`.
pub fn monitor_main(arguments: Vec<String>) -> ExitCode {
    let mut arguments = arguments.into_iter();
    let result = match arguments.next().as_deref() {
        Some("exec") => launch(),
        Some("rootfs") => rootfs::build_main(arguments.collect()),
        _ => Err(Error::invalid("the launcher is not for calling by hand")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The caller holds the other end of stderr and makes this its own error; there is
            // nobody to tell when that is gone.
            let _ = rustix::io::write(rustix::stdio::stderr(), error.to_string().as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn launch() -> Result<()> {
    let failed = |what: &str, errno: Errno| Error::host(what.to_owned()).with_source(errno);
    let (supervisor, launch) = receive()?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|errno| failed("tie the monitor to its supervisor", errno))?;
    // Whoever died before that sends no signal any more.
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get() as u32);
    if parent != Some(supervisor) {
        return Err(Error::channel("the supervisor is gone"));
    }
    for path in &launch.control_groups {
        fs::write(path, "0").map_err(|error| {
            Error::host(format!("join the control group {}", path.display())).with_source(error)
        })?;
    }
    if !launch.staged.is_empty() {
        stage(&launch.staged).map_err(|errno| failed("stage files for the monitor", errno))?;
    }
    let mut arguments = launch.arguments;
    for (index, descriptor) in launch.descriptors.iter().enumerate() {
        rustix::io::fcntl_setfd(descriptor, FdFlags::empty())
            .map_err(|errno| failed("pass a descriptor to the monitor", errno))?;
        let place = format!("{{{index}}}");
        let number = descriptor.as_raw_fd().to_string();
        for argument in &mut arguments {
            *argument = argument.replace(&place, &number);
        }
    }
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| failed("open /dev/null", errno))?;
    rustix::stdio::dup2_stdin(&null)
        .map_err(|errno| failed("close the launcher's input", errno))?;
    let error = Command::new(&launch.program).args(&arguments).exec();
    let program = launch.program.display();
    if error.kind() == std::io::ErrorKind::NotFound {
        return Err(Error::unsupported(format!(
            "there is no {program}: micro VMs need QEMU, install the package qemu-system-x86"
        )));
    }
    Err(Error::host(format!("run {program}")).with_source(error))
}

fn receive() -> Result<(u32, Launch)> {
    let failed = |errno: Errno| Error::channel("read what to launch").with_source(errno);
    let malformed = |error| Error::channel("read what to launch").with_source(error);
    // More than any command line may be long.
    let mut buffer = vec![0; 1 << 20];
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        rustix::stdio::stdin(),
        &mut [IoSliceMut::new(&mut buffer)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )
    .map_err(failed)?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    let mut bytes = &buffer[..received.bytes];
    let supervisor = u32::decode(&mut bytes).map_err(malformed)?;
    let mut launch = Launch {
        program: PathBuf::from(String::decode(&mut bytes).map_err(malformed)?),
        arguments: Vec::decode(&mut bytes).map_err(malformed)?,
        descriptors,
        ..Launch::default()
    };
    let groups: Vec<String> = Vec::decode(&mut bytes).map_err(malformed)?;
    launch.control_groups = groups.into_iter().map(PathBuf::from).collect();
    let staged: Vec<String> = Vec::decode(&mut bytes).map_err(malformed)?;
    for file in staged.chunks_exact(3) {
        launch.staged.push(StagedFile {
            directory: PathBuf::from(&file[0]),
            name: file[1].clone(),
            source: PathBuf::from(&file[2]),
        });
    }
    Ok((supervisor, launch))
}

/// Makes a mount namespace that nobody else sees; it vanishes with the monitor.
pub(crate) fn enter_private_mounts() -> rustix::io::Result<()> {
    crate::sys::unshare_mounts()?;
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
}

fn stage(staged: &[StagedFile]) -> rustix::io::Result<()> {
    enter_private_mounts()?;
    for file in staged {
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount(
            "tmpfs",
            &file.directory,
            "tmpfs",
            flags,
            c"mode=0755,size=64k",
        )?;
        let target = file.directory.join(&file.name);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::RDWR;
        drop(rustix::fs::open(&target, flags, Mode::RUSR)?);
        mount_bind(&file.source, &target)?;
    }
    Ok(())
}
