//! What the container's process does: its mounts, its root, and the wait for `start` (config.md,
//! "Mounts" and "Hooks"; runtime.md, "Lifecycle").
//!
//! Invariant: every path of the configuration that lies in the container is resolved in its root
//! by descriptor, and until the root is changed the host's paths are the host's.

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;

use bulkhead_model::{Error, Result};
use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags};

use crate::attributes::Affinity;
use crate::cgroup::Directory;
use crate::channel::{Channel, Order, Report};
use crate::config::Workload;
use crate::console::Terminal;
use crate::failure::Context;
use crate::launch::{self, Streams};
use crate::resolve::Root;
use crate::{mounts, namespaces, sys, trace};

use super::mount_maker::FromHost;
use super::plan::Plan;
use super::{filesystem, hooks, root};

/// What the container's init is made with.
#[derive(Debug)]
pub(super) struct CreateTask {
    pub(super) plan: Plan,
    pub(super) workload: Workload,
    /// The container's group, as the host sees it.
    pub(super) cgroup: Vec<Directory>,
    pub(super) cgroup_v2: bool,
    pub(super) from_host: Option<FromHost>,
    /// The runtime's user has no privileges.
    pub(super) rootless: bool,
    /// On which `start` connects; without it the order comes over the channel.
    pub(super) listener: Option<UnixListener>,
    /// None if there is a terminal.
    pub(super) streams: Option<[OwnedFd; 3]>,
    pub(super) preserved: Vec<OwnedFd>,
    /// The runtime gives it network devices first.
    pub(super) awaits_devices: bool,
    /// The host's, where it is needed.
    pub(super) procfs: Option<OwnedFd>,
}

/// What one more process is made with.
#[derive(Debug)]
pub(super) struct ExecTask {
    pub(super) workload: Workload,
    /// `CLONE_*` flags of what is joined.
    pub(super) namespaces: i32,
    /// The container's root, where joining namespaces does not lead to it.
    pub(super) root: Option<OwnedFd>,
    pub(super) streams: Option<[OwnedFd; 3]>,
    pub(super) preserved: Vec<OwnedFd>,
    /// The host's, where it is needed.
    pub(super) procfs: Option<OwnedFd>,
    /// The CPUs before it has joined its groups, as bits, and after.
    pub(super) initial_affinity: Option<Vec<u64>>,
    pub(super) affinity: Affinity,
}

impl ExecTask {
    /// Legal before the groups are joined.
    pub(super) fn set_initial_affinity(&self) -> Result<()> {
        match &self.initial_affinity {
            Some(cpus) => sys::set_affinity(cpus)
                .host(|| "process.execCPUAffinity.initial: set the CPUs".into()),
            None => Ok(()),
        }
    }
}

/// Goes on as the container's init.
pub(super) fn set_up(mut task: CreateTask, channel: Channel) -> Result<Infallible> {
    if task.awaits_devices {
        channel.await_order()?;
    }
    Affinity::All.apply()?;
    let host = task.from_host.take();
    let streams = task.streams.take();
    let procfs = task.procfs.take();
    let preserved = std::mem::take(&mut task.preserved);
    let listener = task.listener.take();
    let CreateTask { plan, workload, .. } = &task;
    rustix::process::umask(Mode::empty());
    if plan.new & libc::CLONE_NEWCGROUP != 0 {
        sys::unshare(libc::CLONE_NEWCGROUP).host(|| "make a cgroup namespace".into())?;
    }
    if !plan.hostname.is_empty() {
        rustix::system::sethostname(plan.hostname.as_bytes()).host(|| "set the hostname".into())?;
    }
    if !plan.domainname.is_empty() {
        rustix::system::setdomainname(plan.domainname.as_bytes())
            .host(|| "set the domainname".into())?;
    }
    if plan.new & libc::CLONE_NEWNET != 0 {
        sys::loopback_up().host(|| "set the loopback interface up".into())?;
    }
    trace::phase("names and network set");
    let root = root::mount(plan, host.as_ref())?;
    trace::phase("root mounted");
    let writable = filesystem::mount_all(&root, &task, host.as_ref())?;
    drop(host);
    trace::phase("mounts made");
    let dev = filesystem::make_devices(&root, plan)?;
    root.directory(&workload.process.cwd)?;
    let user = launch::resolve_user(&root, workload)?;
    trace::phase("devices made, user found");

    let mut state = String::new();
    if plan.pauses {
        channel.send(&Report::Ready, &[])?;
        match channel.receive::<Order>()? {
            Some((Order::Hooks(text), _)) => state = text,
            _ => sys::exit_now(1),
        }
    }
    // These run in the container's root, of which they see what the runtime sees.
    rustix::process::fchdir(&root).host(|| "change to the container's root".into())?;
    hooks::run("createContainer", &plan.create_container, &state)?;
    if !plan.sysctls.is_empty() {
        // A procfs that is mounted nowhere cannot be a decoy (CVE-2025-52881).
        let proc = mounts::filesystem("proc", &[], &[], mounts::NOTHING_SPECIAL)
            .host(|| "open procfs".into())?;
        namespaces::set_sysctls(&proc, &plan.sysctls)?;
    }
    let (streams, master) = match workload.process.terminal {
        Some(size) => {
            let devpts = root
                .find("/dev/pts", OFlags::PATH | OFlags::DIRECTORY)
                .host(|| "process.terminal: open /dev/pts in the container".into())?;
            let terminal = Terminal::open(&devpts, size)?;
            terminal.bind_console(&dev, &devpts)?;
            (Streams::Terminal(terminal.slave), Some(terminal.master))
        }
        None => (standard_streams(streams)?, None),
    };
    filesystem::protect(&root, plan, &dev, &writable)?;
    drop(writable);
    trace::phase("paths protected");
    root::enter(&root, plan)?;
    trace::phase("root changed");
    find_program(workload)?;
    workload.attributes.apply()?;
    workload.labels.apply(procfs.as_ref())?;
    let masters: Vec<_> = master.iter().map(AsFd::as_fd).collect();
    channel.send(&Report::Ready, &masters)?;
    drop((master, dev, procfs));
    // The runtime may end now.
    let channel = listener.is_none().then_some(channel);
    // Whoever waits has nothing open that is the host's and not the workload's.
    let (input, output, error) = match &streams {
        Streams::Terminal(slave) => (slave, slave, slave),
        Streams::Pipes([input, output, error]) => (input, output, error),
    };
    for (stream, number) in [(input, 0), (output, 1), (error, 2)] {
        sys::duplicate_to(stream.as_fd(), number, true)
            .host(|| "place the standard streams".into())?;
    }
    sys::exit_on_signals();
    if task.rootless {
        // Or else its own user could not exec in the container until it is started.
        sys::set_dumpable(true).host(|| "open this process to its user".into())?;
    }

    trace::phase("ready");
    let channel = await_start(listener, channel)?;
    trace::phase("order to start received");
    let hooks = || {
        // Like runc's, these hooks have the variables of the process.
        let environment = launch::environment(workload, &user);
        let hooks = &plan.start_container;
        hooks::run_in("startContainer", hooks, &state, Some(&environment))
    };
    launch::launch(workload, &user, streams, preserved, channel, hooks)
}

/// Goes on as one more process of a running container, in whose namespaces we are.
pub(super) fn set_up_exec(mut task: ExecTask, channel: Channel) -> Result<Infallible> {
    task.affinity.apply()?;
    let streams = task.streams.take();
    let procfs = task.procfs.take();
    let workload = &task.workload;
    rustix::process::umask(Mode::empty());
    if let Some(root) = task.root.take() {
        let doing = || "change to the container's root".to_owned();
        rustix::process::fchdir(root).host(doing)?;
        rustix::process::chroot(".").host(doing)?;
        rustix::process::chdir("/").host(doing)?;
    }
    let root = Root::open("/".as_ref())?;
    // `create` makes the working directory; one that is missing now is a mistake of the caller's.
    let directory = OFlags::PATH | OFlags::DIRECTORY;
    root.find(&workload.process.cwd, directory)
        .host(|| format!("process.cwd: {}", workload.process.cwd))?;
    let user = launch::resolve_user(&root, workload)?;
    let (streams, master) = match workload.process.terminal {
        Some(size) => {
            let devpts = root
                .find("/dev/pts", OFlags::PATH | OFlags::DIRECTORY)
                .host(|| "open /dev/pts in the container".into())?;
            let terminal = Terminal::open(&devpts, size)?;
            (Streams::Terminal(terminal.slave), Some(terminal.master))
        }
        None => (standard_streams(streams)?, None),
    };
    find_program(workload)?;
    workload.attributes.apply()?;
    workload.labels.apply(procfs.as_ref())?;
    let masters: Vec<_> = master.iter().map(AsFd::as_fd).collect();
    channel.send(&Report::Ready, &masters)?;
    drop((master, procfs));
    channel.await_order()?;
    launch::launch(workload, &user, streams, task.preserved, channel, || Ok(()))
}

fn standard_streams(streams: Option<[OwnedFd; 3]>) -> Result<Streams> {
    streams
        .map(Streams::Pipes)
        .ok_or_else(|| Error::channel("the process has neither a terminal nor standard streams"))
}

/// Blocks until the runtime gives the order over its channel, or somebody who connects does; who
/// only connects is not waited for.
fn await_start(listener: Option<UnixListener>, channel: Option<Channel>) -> Result<Channel> {
    if let Some(channel) = channel {
        channel.await_order()?;
        channel.send(&Report::Ready, &[])?;
        return Ok(channel);
    }
    let listener = listener.ok_or_else(|| Error::channel("nobody can start this process"))?;
    loop {
        let (connection, _) = listener.accept().host(|| "wait for start".into())?;
        let channel = Channel::from_descriptor(connection.into());
        // The answer tells the end of file that is to come from the one of a process that has died.
        if let Ok(Some((Order::Start, _))) = channel.receive::<Order>()
            && channel.send(&Report::Ready, &[]).is_ok()
        {
            return Ok(channel);
        }
    }
}

/// Tells at `create` already what exec(2) would find wrong, in the words that Docker and
/// containerd look for.
fn find_program(workload: &Workload) -> Result<()> {
    let process = &workload.process;
    let program = process.args.first().map_or("", String::as_str);
    let executable = |path: &str| -> Result<(), rustix::io::Errno> {
        let status = rustix::fs::stat(path)?;
        if rustix::fs::FileType::from_raw_mode(status.st_mode) == rustix::fs::FileType::Directory {
            return Err(rustix::io::Errno::ACCESS);
        }
        rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::empty())
    };
    if program.contains('/') {
        let path = if program.starts_with('/') {
            program.to_owned()
        } else {
            format!("{}/{program}", process.cwd)
        };
        return match executable(&path) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::ACCESS) => Err(Error::new(
                bulkhead_model::ErrorKind::CommandNotExecutable,
                format!("exec: \"{program}\": permission denied"),
            )),
            Err(_) => Err(Error::new(
                bulkhead_model::ErrorKind::CommandNotFound,
                format!("exec: \"{program}\": stat {program}: no such file or directory"),
            )),
        };
    }
    let path = launch::search_path(workload);
    let mut refused = false;
    for directory in path.split(':') {
        match executable(&format!("{directory}/{program}")) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::ACCESS) => refused = true,
            Err(_) => {}
        }
    }
    if refused {
        return Err(Error::new(
            bulkhead_model::ErrorKind::CommandNotExecutable,
            format!("exec: \"{program}\": permission denied"),
        ));
    }
    Err(Error::new(
        bulkhead_model::ErrorKind::CommandNotFound,
        format!("exec: \"{program}\": executable file not found in $PATH"),
    ))
}
