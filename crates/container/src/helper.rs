//! The hidden subcommand: a process with one thread, so that it may fork and change namespaces.
//!
//! It gets its task over the socket at stdin, clones the container's process as a child of the
//! runtime (`CLONE_PARENT`), reports its number and ends. The new process waits until the
//! runtime has put it into its cgroup and then goes on as [`create`] or [`exec`].

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use bulkhead_model::{Error, Mount, MountSource, Result};
use rustix::fs::{Mode, OFlags};

use crate::channel::{Channel, Report};
use crate::config::{CreateTask, Task, Workload};
use crate::console::Terminal;
use crate::failure::Context;
use crate::launch::{self, Streams};
use crate::resolve::Root;
use crate::{mounts, namespaces, rootfs, sys};

/// The helper's entry point. It must be called before the program starts a thread, with stdin as
/// the runtime set it; `arguments` are what follows the subcommand's name, and there are none.
pub fn init_main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    if arguments.into_iter().next().is_some() {
        return ExitCode::from(2);
    }
    let channel = Channel::from_descriptor(sys::inherited(0));
    match run(&channel) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = channel.send(&Report::Failed(error.into()), &[]);
            ExitCode::FAILURE
        }
    }
}

fn run(channel: &Channel) -> Result<()> {
    // Once in the container's namespaces, its processes must not reach into us.
    sys::set_dumpable(false).host(|| "protect the helper".into())?;
    let Some((task, mut descriptors)) = channel.receive::<Task>()? else {
        return Err(Error::channel("the runtime ended before it gave a task"));
    };
    // Through the host's procfs: once the container's mounts are joined, `/proc` may be a decoy of
    // its making (CVE-2025-52881).
    set_oom_score(match &task {
        Task::Create(create) => &create.workload,
        Task::Exec(workload) => workload,
    })?;
    let flags = match &task {
        Task::Create(create) => namespaces::clone_flags(&create.spec.network),
        Task::Exec(_) => {
            let init = descriptors
                .pop()
                .ok_or_else(|| Error::channel("the runtime sent no process to join"))?;
            namespaces::join(init.as_fd())?;
            0
        }
    };
    let cloned = sys::clone_process(flags | libc::CLONE_PARENT)
        .host(|| "make the container's process".into())?;
    if let Some(pid) = cloned {
        return channel.send(&Report::Cloned(pid), &[]);
    }
    let Err(error) = continue_in_container(channel, task, descriptors);
    let _ = channel.send(&Report::Failed(error.into()), &[]);
    sys::exit_now(1)
}

fn continue_in_container(
    channel: &Channel,
    task: Task,
    descriptors: Vec<OwnedFd>,
) -> Result<std::convert::Infallible> {
    // If the runtime has died before this, waiting for its order ends us.
    sys::set_parent_death_signal(libc::SIGKILL).host(|| "set the death signal".into())?;
    channel.await_order()?;
    let channel_copy = channel.try_clone()?;
    let pipes = |descriptors| <[OwnedFd; 3]>::try_from(descriptors).ok();
    match task {
        Task::Create(task) => create(*task, pipes(descriptors), channel_copy),
        Task::Exec(workload) => exec(*workload, pipes(descriptors), channel_copy),
    }
}

/// Sets the container up, as its PID 1.
fn create(
    task: CreateTask,
    pipes: Option<[OwnedFd; 3]>,
    channel: Channel,
) -> Result<std::convert::Infallible> {
    let CreateTask {
        spec,
        workload,
        cgroup_mounts,
    } = task;
    rustix::process::umask(Mode::empty());
    namespaces::set_up(&spec.hostname, &spec.network)?;
    let root = rootfs::mount_root(&spec.root)?;
    let system = mounts::mount_system(&root, &spec, &cgroup_mounts)?;
    for name in ["hosts", "resolv.conf", "hostname"] {
        let mount = Mount {
            target: format!("/etc/{name}"),
            source: MountSource::Bind(spec.state_dir.join(name)),
            read_only: false,
        };
        mounts::mount_one(&root, &mount)?;
    }
    for mount in &spec.mounts {
        mounts::mount_one(&root, mount)?;
    }
    root.directory(&workload.process.cwd)?;
    let user = launch::resolve_user(&root, &workload)?;
    let streams = match (workload.process.terminal, pipes) {
        (Some(size), _) => {
            let terminal = Terminal::open(&system.devpts, size)?;
            terminal.bind_console(&system.dev, &system.devpts)?;
            channel.send(&Report::Ready, &[terminal.master.as_fd()])?;
            Streams::Terminal(terminal.slave)
        }
        (None, Some(pipes)) => Streams::Pipes(pipes),
        (None, None) => return Err(Error::channel("the runtime sent no standard streams")),
    };
    namespaces::set_sysctls(&system.proc, &spec.sysctls)?;
    if !spec.security.privileged {
        mounts::mask(&system)?;
    }
    rootfs::enter(&root, spec.root.read_only)?;
    channel.send(&Report::Ready, &[])?;
    channel.await_order()?;
    launch::launch(&workload, &user, streams, Vec::new(), channel, || Ok(()))
}

/// Goes on as one more process of a running container, in whose namespaces we are.
fn exec(
    workload: Workload,
    pipes: Option<[OwnedFd; 3]>,
    channel: Channel,
) -> Result<std::convert::Infallible> {
    rustix::process::umask(Mode::empty());
    let root = Root::open("/".as_ref())?;
    root.directory(&workload.process.cwd)?;
    let user = launch::resolve_user(&root, &workload)?;
    let streams = match (workload.process.terminal, pipes) {
        (Some(size), _) => {
            let devpts = root
                .find("/dev/pts", OFlags::PATH | OFlags::DIRECTORY)
                .host(|| "open /dev/pts in the container".into())?;
            let terminal = Terminal::open(&devpts, size)?;
            channel.send(&Report::Ready, &[terminal.master.as_fd()])?;
            Streams::Terminal(terminal.slave)
        }
        (None, Some(pipes)) => Streams::Pipes(pipes),
        (None, None) => return Err(Error::channel("the runtime sent no standard streams")),
    };
    channel.send(&Report::Ready, &[])?;
    channel.await_order()?;
    launch::launch(&workload, &user, streams, Vec::new(), channel, || Ok(()))
}

pub(crate) fn set_oom_score(workload: &Workload) -> Result<()> {
    let Some(score) = workload.oom_score_adj else {
        return Ok(());
    };
    let doing = || {
        format!("set oom_score_adj to {score}: below the runtime's own it needs CAP_SYS_RESOURCE")
    };
    std::fs::OpenOptions::new()
        .write(true)
        .open("/proc/self/oom_score_adj")
        .and_then(|mut file| file.write_all(score.to_string().as_bytes()))
        .host(doing)
}
