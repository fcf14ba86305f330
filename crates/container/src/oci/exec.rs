//! `exec`: one more process in a running container. The verb is runc's, its process the
//! specification's (config.md, "Process").

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use bulkhead_model::{Error, Result};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::attributes::Affinity;
use crate::cgroup::Cgroup;
use crate::channel::Order;
use crate::failure::Context;
use crate::seccomp::OciProfile;
use crate::{log, spawn};

use super::arguments::{Arguments, Flag, flag, option};
use super::config::{self, Config, Process};
use super::container::{Container, Status, start_time};
use super::create::{path, preserved, ready, standard_streams};
use super::setup::{self, ExecTask};
use super::{
    Global, attributes, foreground, fork, listener, namespaces, pid_file, process, start, terminal,
};

pub(super) const FLAGS: &[Flag] = &[
    option("console-socket", None),
    option("pidfd-socket", None),
    option("cwd", None),
    option("env", Some('e')),
    flag("tty", Some('t')),
    option("user", Some('u')),
    option("additional-gids", Some('g')),
    option("process", Some('p')),
    flag("detach", Some('d')),
    option("pid-file", None),
    option("process-label", None),
    option("apparmor", None),
    flag("no-new-privs", None),
    option("cap", Some('c')),
    option("preserve-fds", None),
    option("cgroup", None),
    flag("ignore-paused", None),
];

pub(super) fn main(global: &Global, arguments: &[String]) -> Result<u8> {
    let arguments = Arguments::parse_leading(arguments, FLAGS)?;
    // It may be a descriptor of the caller's, such as a shell's `<(…)`.
    let given = path(&arguments, "process");
    let given = given.map(|path| config::read_text(&path)).transpose()?;
    let preserved = preserved(&arguments)?;
    let (id, command) = arguments.container()?;
    let container = Container::load(&global.root, id)?;
    match container.status() {
        Status::Running | Status::Created => {}
        Status::Paused if arguments.is_set("ignore-paused") => {}
        Status::Paused => {
            return Err(Error::conflict(
                "cannot exec in a paused container (use --ignore-paused to override)",
            ));
        }
        Status::Stopped | Status::Creating => {
            return Err(Error::conflict("cannot exec in a stopped container"));
        }
    }
    let configuration: Config = container.config()?;
    let process = process_of(&arguments, &configuration, command, given.as_deref())?;
    let program = process.args.first().cloned().unwrap_or_default();
    let detached = arguments.is_set("detach");
    let socket = path(&arguments, "console-socket");
    terminal::check(process.terminal, detached, socket.as_deref())?;
    let (initial_affinity, affinity) = affinity(&process)?;
    if let Some(first) = initial_affinity.as_ref().and_then(|words| words.first()) {
        log::debug(|| format!("nsexec: affinity: {first:#x}"));
    }
    let workload = process::workload(
        &process,
        &configuration.linux,
        true,
        container.record.namespaces & libc::CLONE_NEWUSER != 0,
    )?;
    let group = sub_group(container.cgroup(), &arguments)?;

    let init = Pid::from_raw(container.record.pid as i32)
        .ok_or_else(|| Error::conflict("cannot exec in a stopped container"))?;
    let init = pidfd_open(init, PidfdFlags::empty()).host(|| "open the container's init".into())?;
    if start_time(container.record.pid) != Some(container.record.start_time) {
        return Err(Error::conflict("cannot exec in a stopped container"));
    }
    // Where the container has given the controllers of its group to groups in it, no process may
    // be in the group itself: it goes to where the init is.
    let own = (group.is_v2() && arguments.value("cgroup").is_none())
        .then(|| Cgroup::unified_of(container.record.pid))
        .flatten();
    let entrance = group.entrance().or_unified(own).open()?;
    let mut namespaces = container.record.namespaces;
    if namespaces & libc::CLONE_NEWUSER != 0 && same_user_namespace(container.record.pid)? {
        // One's own cannot be joined (setns(2)).
        namespaces &= !libc::CLONE_NEWUSER;
    }
    let root = if namespaces & libc::CLONE_NEWNS == 0 {
        // The mount namespace is the host's, and so would be the root.
        let path = format!("/proc/{}/root", container.record.pid);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Some(rustix::fs::open(&path, flags, Mode::empty()).host(|| format!("open {path}"))?)
    } else {
        None
    };
    let task = ExecTask {
        streams: standard_streams(&workload)?,
        procfs: workload.labels.open_procfs()?,
        workload,
        namespaces,
        root,
        preserved,
        initial_affinity,
        affinity,
    };
    log::debug(|| "nsexec container setup: a child joins the namespaces".into());
    let (channel, pid) = fork::by_child(
        entrance,
        task,
        |task, _| {
            task.set_initial_affinity()?;
            namespaces::join_container(task, init.as_fd()).map(|()| 0)
        },
        |_| Err(Error::channel("an exec made a user namespace")),
        setup::set_up_exec,
    )?;
    let started = || -> Result<Option<OwnedFd>> {
        if let Some(rdt) = &container.record.rdt {
            rdt.add_process(pid)?;
        }
        log::debug(|| format!("child process in init(): {pid}"));
        let kept = terminal::deliver(ready(&channel)?.pop(), socket.as_deref())?;
        if let Some(path) = path(&arguments, "pid-file") {
            pid_file::write(&path, pid)?;
        }
        if let Some(path) = path(&arguments, "pidfd-socket") {
            terminal::deliver_pidfd(pid, &path)?;
        }
        log::debug(|| "setns_init: about to exec".into());
        if !detached {
            foreground::hold_signals();
        }
        channel.send(&Order::Start, &[])?;
        let seccomp = configuration.linux.seccomp.as_ref();
        listener::await_program(
            &channel,
            pid,
            seccomp.and_then(OciProfile::listener),
            &container.state(Status::Running),
        )
        .map_err(|error| start::not_executed(error, &program))?;
        Ok(kept)
    };
    let master = started().inspect_err(|_| spawn::end(pid))?;
    drop(channel);
    if detached {
        return Ok(0);
    }
    foreground::wait(pid, master)
}

fn same_user_namespace(pid: u32) -> Result<bool> {
    let namespace = |process: &str| {
        let path = format!("/proc/{process}/ns/user");
        std::fs::metadata(&path).host(|| format!("look at {path}"))
    };
    let (own, other) = (namespace("self")?, namespace(&pid.to_string())?);
    Ok((own.dev(), own.ino()) == (other.dev(), other.ino()))
}

/// The CPUs before the groups are joined and after (config.md, "Linux Process":
/// `execCPUAffinity`).
fn affinity(process: &Process) -> Result<(Option<Vec<u64>>, Affinity)> {
    let Some(wanted) = &process.exec_cpu_affinity else {
        return Ok((None, Affinity::All));
    };
    let cpus = |field: &str, list: &Option<String>| -> Result<Option<Vec<u64>>> {
        let list = list.as_deref().unwrap_or_default();
        let cpus = attributes::bits(list, attributes::MAXIMUM_CPU).map_err(|error| {
            Error::invalid(format!("process.execCPUAffinity.{field}")).with_source(error)
        })?;
        Ok(Some(cpus).filter(|cpus| !cpus.is_empty()))
    };
    let initial = cpus("initial", &wanted.initial)?;
    let affinity = match (&initial, cpus("final", &wanted.last)?) {
        (_, Some(cpus)) => Affinity::These(cpus),
        (Some(_), None) => Affinity::Kept,
        (None, None) => Affinity::All,
    };
    Ok((initial, affinity))
}

/// The process of `--process`, or the container's own with what the flags change.
fn process_of(
    arguments: &Arguments,
    configuration: &Config,
    command: &[String],
    given: Option<&str>,
) -> Result<Process> {
    let own = configuration.process.as_ref();
    if let Some(text) = given {
        let mut process: Process = config::parse(text, "process.json")?;
        let umask = own.and_then(|own| own.user.umask);
        process.user.umask = process.user.umask.or(umask).or_else(|| Some(own_umask()));
        return Ok(process);
    }
    if command.is_empty() {
        return Err(Error::invalid(
            "process args cannot be empty: name the program to run",
        ));
    }
    let mut process = own
        .cloned()
        .ok_or_else(|| Error::invalid("process: the container has none to take after"))?;
    process.user.umask = process.user.umask.or_else(|| Some(own_umask()));
    process.args = command.to_vec();
    process.terminal = arguments.is_set("tty");
    if let Some(cwd) = arguments.value("cwd") {
        process.cwd = cwd.into();
    }
    process.env.extend(arguments.all("env").map(String::from));
    if arguments.value("no-new-privs").is_some() {
        process.no_new_privileges = arguments.is_set("no-new-privs");
    }
    if let Some(user) = arguments.value("user") {
        let number = |text| {
            identifier(text).ok_or_else(|| {
                Error::invalid(format!("--user: '{user}' is not UID or UID:GID in numbers"))
            })
        };
        match user.split_once(':') {
            Some((uid, gid)) => {
                (process.user.uid, process.user.gid) = (number(uid)?, number(gid)?);
            }
            None => process.user.uid = number(user)?,
        }
    }
    for (flag, label) in [
        ("apparmor", &mut process.apparmor_profile),
        ("process-label", &mut process.selinux_label),
    ] {
        if let Some(value) = arguments.value(flag).filter(|value| !value.is_empty()) {
            *label = Some(value.into());
        }
    }
    for gid in arguments.all("additional-gids") {
        let gid = identifier(gid)
            .ok_or_else(|| Error::invalid(format!("--additional-gids: '{gid}' is no number")))?;
        process.user.additional_gids.push(gid);
    }
    // Nothing becomes inheritable by exec (CVE-2022-27650), and ambient only what was.
    let sets = &mut process.capabilities;
    for name in arguments.all("cap") {
        for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
            set.push(name.into());
        }
        if sets.inheritable.iter().any(|known| known == name) {
            sets.ambient.push(name.into());
        }
    }
    Ok(process)
}

/// The number of a user or group: no signs and no spaces, as `parse` would take a plus
/// (CVE-2026-30892).
fn identifier(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.then(|| text.parse().ok()).flatten();
    number.filter(|number| *number <= i32::MAX as u32)
}

/// What a process has without one of its own. Legal in a process with one thread.
fn own_umask() -> u32 {
    let own = rustix::process::umask(rustix::fs::Mode::empty());
    rustix::process::umask(own);
    own.as_raw_mode()
}

/// The container's group, or what `--cgroup [CONTROLLER,…:]PATH` names below it.
fn sub_group(group: &Cgroup, arguments: &Arguments) -> Result<Cgroup> {
    let mut directories = group.directories().to_vec();
    for text in arguments.all("cgroup") {
        let (controllers, below) = match text.split_once(':') {
            Some((controllers, below)) => (Some(controllers), below),
            None => (None, text),
        };
        let relative: PathBuf = below.trim_start_matches('/').into();
        if relative
            .components()
            .any(|part| !matches!(part, std::path::Component::Normal(_)))
        {
            return Err(Error::invalid(format!(
                "--cgroup: bad sub cgroup path '{text}': it leads out of the container's cgroup"
            )));
        }
        let mut found = false;
        for directory in &mut directories {
            let named = controllers.is_none_or(|controllers| {
                controllers
                    .split(',')
                    .any(|name| directory.controllers.iter().any(|known| known == name))
            });
            if named {
                found = true;
                directory.path.push(&relative);
                if !directory.path.is_dir() {
                    return Err(Error::not_found(format!(
                        "--cgroup: adding pid of the new process to {}: no such file or directory",
                        directory.path.display()
                    )));
                }
            }
        }
        if !found {
            return Err(Error::invalid(format!(
                "--cgroup: unknown controller in '{text}': this host has none of that name"
            )));
        }
    }
    Ok(group.with_directories(directories))
}
