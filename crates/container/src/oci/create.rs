//! `create`: everything up to the program's start (runtime.md, "Create" and "Lifecycle").

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use bulkhead_model::{Error, Result};

use crate::cgroup::{Cgroup, Unit};
use crate::channel::{Channel, Order, Report};
use crate::config::Workload;
use crate::failure::Context;
use crate::helper::set_oom_score;
use crate::{log, spawn, sys, trace};

use super::arguments::{Arguments, Flag, flag, option};
use super::config::{self, Config};
use super::container::{self, Container, Record, Status};
use super::mount_maker::Maker;
use super::plan::Plan;
use super::rdt::Rdt;
use super::setup::{self, CreateTask};
use super::user_namespace::Mappings;
use super::{
    Global, foreground, fork, hooks, namespaces, network_devices, pid_file, process, resources,
    start, terminal,
};

pub(super) const FLAGS: &[Flag] = &[
    option("bundle", Some('b')),
    option("console-socket", None),
    option("pid-file", None),
    flag("no-pivot", None),
    flag("no-new-keyring", None),
    option("preserve-fds", None),
    option("pidfd-socket", None),
];

/// How a container is to be made.
#[derive(Debug)]
pub(super) struct Options {
    bundle: PathBuf,
    console_socket: Option<PathBuf>,
    pidfd_socket: Option<PathBuf>,
    pid_file: Option<PathBuf>,
    no_pivot: bool,
    new_keyring: bool,
    preserved: Vec<OwnedFd>,
}

impl Options {
    pub(super) fn new(arguments: &Arguments) -> Result<Self> {
        let bundle = PathBuf::from(arguments.value("bundle").unwrap_or("."));
        let bundle = bundle.canonicalize().map_err(|error| {
            Error::invalid(format!("the bundle {}", bundle.display())).with_source(error)
        })?;
        Ok(Self {
            bundle,
            console_socket: path(arguments, "console-socket"),
            pidfd_socket: path(arguments, "pidfd-socket"),
            pid_file: path(arguments, "pid-file"),
            no_pivot: arguments.is_set("no-pivot"),
            new_keyring: !arguments.is_set("no-new-keyring"),
            preserved: preserved(arguments)?,
        })
    }
}

pub(super) fn path(arguments: &Arguments, name: &str) -> Option<PathBuf> {
    arguments
        .value(name)
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
}

/// Takes over the descriptors that the workload is to have from 3 on: socket activation's, then
/// those of `--preserve-fds`. All others that were inherited are closed, as the container's
/// process will have a copy of all that is open (CVE-2024-21626). Legal before anything is opened.
pub(super) fn preserved(arguments: &Arguments) -> Result<Vec<OwnedFd>> {
    let count: i32 = arguments.number("preserve-fds")?.unwrap_or(0);
    if !(0..=200).contains(&count) {
        return Err(Error::invalid(format!(
            "--preserve-fds: {count} is not 0 to 200"
        )));
    }
    let end = 3 + listen_fds() + count;
    sys::close_others(end as u32, trace::descriptor())
        .host(|| "close inherited descriptors".into())?;
    (3..end)
        .map(|number| {
            sys::take_inherited(number).map_err(|error| {
                Error::invalid(format!("--preserve-fds: descriptor {number}")).with_source(error)
            })
        })
        .collect()
}

/// How many sockets a service manager has passed (sd_listen_fds(3)).
fn listen_fds() -> i32 {
    let count = std::env::var("LISTEN_FDS")
        .ok()
        .and_then(|text| text.parse().ok());
    count.filter(|count| (0..=40).contains(count)).unwrap_or(0)
}

pub(super) fn main(global: &Global, arguments: &[String]) -> Result<()> {
    let arguments = Arguments::parse(arguments, FLAGS)?;
    let options = Options::new(&arguments)?;
    let id = arguments.only_container()?;
    create(global, id, options, true, Starter::Verb).map(drop)
}

/// Who is going to start the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Starter {
    /// Whoever calls `start`, through the socket.
    Verb,
    /// The caller, at once.
    Caller,
}

/// A container that waits for its start. Without detachment its terminal is the caller's.
#[derive(Debug)]
pub(super) struct Created {
    pub(super) container: Container,
    pub(super) terminal: Option<OwnedFd>,
    pub(super) config: Config,
    /// To the init, if it takes its order to start there. It ends with the caller, then.
    pub(super) channel: Option<Channel>,
    /// The order has been given.
    pub(super) ordered: bool,
}

/// # Errors
/// Nothing is left of the container then.
pub(super) fn create(
    global: &Global,
    id: &str,
    options: Options,
    detached: bool,
    starter: Starter,
) -> Result<Created> {
    container::check_id(id)?;
    container::check_new(&global.root, id)?;
    let text = config::read_text(&options.bundle.join("config.json"))?;
    let config: Config = config::parse(&text, "config.json")?;
    let raw = config::parse(&text, "config.json")?;
    trace::phase("configuration read");
    let mut plan = Plan::new(&config, &options.bundle, options.no_pivot)?;
    let waiting = [
        &config.hooks.create_container,
        &config.hooks.start_container,
    ];
    plan.pauses |= waiting.iter().any(|hooks| !hooks.is_empty());
    let process = config
        .process
        .as_ref()
        .ok_or_else(|| Error::invalid("process: it is missing"))?;
    terminal::check(
        process.terminal,
        detached,
        options.console_socket.as_deref(),
    )?;
    let mut workload = process::workload(
        process,
        &config.linux,
        options.new_keyring,
        plan.has(libc::CLONE_NEWUSER),
    )?;
    let sockets = listen_fds();
    if sockets > 0 {
        workload
            .process
            .env
            .extend([format!("LISTEN_FDS={sockets}"), "LISTEN_PID=1".into()]);
    }
    let path = config.linux.cgroups_path.as_deref();
    let path = path.filter(|path| !path.is_empty());
    let mut group = if global.systemd {
        let user = !rustix::process::geteuid().is_root();
        Cgroup::at_unit(Unit::new(path, id, user)?)?
    } else {
        Cgroup::at_path(path, id, global.rootless)?
    };
    group.check_vacant()?;
    let rdt = match &config.linux.intel_rdt {
        Some(wanted) => Some(Rdt::new(wanted, id)?),
        None => None,
    };
    let settings = resources::settings(&config.linux.resources, group.is_v2())?;
    let devices = resources::device_rules(&config.linux.resources.devices)?;

    let record = Record::new(
        id,
        &options.bundle,
        (&config, raw),
        &plan,
        (&group, rdt.as_ref()),
    );
    let mut container = Container::make(&global.root, record)?;
    trace::phase("state written");
    let placeholder = group
        .make_at_path(&settings, &devices, &config.annotations)
        .inspect_err(|_| {
            // The first failure is the one to tell about.
            let _ = container.remove();
        })?;
    container.record.cgroup = group.clone();
    trace::phase("groups made");
    // A hook may look at the container, which is then to wait at its socket; and mounts in a
    // namespace of others are found by that it is not recorded as made.
    let waits =
        starter == Starter::Verb || !config.hooks.is_empty() || plan.new & libc::CLONE_NEWNS == 0;
    if global.rootless && group.is_absent() && !plan.has(libc::CLONE_NEWPID) {
        log::warn(|| {
            "the container has neither a cgroup nor a pid namespace of its own. Such \
             configuration is strongly discouraged, as nothing tells which processes are its own \
             when it is killed"
                .into()
        });
    }
    // A device policy is not for an ordinary user to set, who can make no device node in any
    // namespace, and to whom those of the host are open or not by their modes.
    let policy = match rustix::process::geteuid().is_root() {
        true => group.set_device_rules(&devices),
        false => Ok(()),
    };
    let made = policy
        .and_then(|()| group.apply(&settings))
        .and_then(|()| match (&rdt, &config.linux.intel_rdt) {
            (Some(rdt), Some(wanted)) => rdt.make(wanted),
            _ => Ok(()),
        })
        .and_then(|()| match group_owner(&config) {
            Some(uid) => group.give_to(uid),
            None => Ok(()),
        })
        .and_then(|()| {
            trace::phase("limits set");
            let manner = Manner { waits, detached };
            let process = (plan, workload, manner);
            spawn_init(&mut container, &config, process, &group, options)
        });
    drop(placeholder);
    match made {
        Ok((terminal, channel, ordered)) => Ok(Created {
            container,
            terminal,
            config,
            channel: (!waits).then_some(channel),
            ordered,
        }),
        Err(error) => {
            // The first failure is the one to tell about. By its state the next delete finds what
            // cannot be removed.
            let destroyed = group.destroy();
            if let Some(rdt) = &rdt {
                let _ = rdt.remove();
            }
            container.unmount_unfinished();
            if destroyed.is_ok() {
                let _ = container.remove();
            }
            Err(error)
        }
    }
}

/// The user on the host to whom a container's group belongs that it may write to: who its process
/// is.
fn group_owner(config: &Config) -> Option<u32> {
    let own = config
        .linux
        .namespaces
        .iter()
        .any(|namespace| namespace.kind == "cgroup" && namespace.path.is_none());
    let writable = config.mounts.iter().any(|mount| {
        mount.kind.as_deref() == Some("cgroup")
            && !mount.options.iter().any(|option| option == "ro")
    });
    let uid = config.process.as_ref()?.user.uid;
    if !own || !writable {
        return None;
    }
    if config.linux.uid_mappings.is_empty() {
        return Some(uid);
    }
    let mut mappings = config.linux.uid_mappings.iter();
    mappings.find_map(|mapping| {
        let offset = uid.checked_sub(mapping.container_id)?;
        (offset < mapping.size).then(|| mapping.host_id.checked_add(offset))?
    })
}

/// How the init goes on after its set-up.
#[derive(Debug, Clone, Copy)]
struct Manner {
    /// For whoever connects to its socket.
    waits: bool,
    /// Nobody stays with it.
    detached: bool,
}

fn spawn_init(
    container: &mut Container,
    config: &Config,
    (plan, workload, Manner { waits, detached }): (Plan, Workload, Manner),
    group: &Cgroup,
    options: Options,
) -> Result<(Option<OwnedFd>, Channel, bool)> {
    let listener = waits.then(|| container.listen()).transpose()?;
    let (pauses, new, joins) = (plan.pauses, plan.new, plan.needs_child());
    let has_terminal = workload.process.terminal.is_some();
    let entrance = group.entrance().open()?;
    let (maker, from_host) = Maker::start(&plan)?.unzip();
    let task = CreateTask {
        streams: standard_streams(&workload)?,
        from_host,
        procfs: workload.labels.open_procfs()?,
        plan,
        workload,
        cgroup: group.directories().to_vec(),
        cgroup_v2: group.is_v2(),
        rootless: !rustix::process::geteuid().is_root(),
        listener,
        preserved: options.preserved,
        awaits_devices: !config.linux.net_devices.is_empty(),
    };
    log::debug(|| "nsexec container setup: the new process makes its namespaces".into());
    let (channel, pid) = if joins {
        let linux = &config.linux;
        let (users, groups) = (&linux.uid_mappings, &linux.gid_mappings);
        fork::by_child(
            entrance,
            task,
            namespaces::make,
            |child| Mappings { users, groups }.write(child),
            setup::set_up,
        )?
    } else {
        fork::directly(
            entrance,
            task,
            namespaces::clone_flags(new),
            |task, channel| {
                set_oom_score(&task.workload)?;
                setup::set_up(task, channel)
            },
        )?
    };
    trace::phase("process cloned");
    container.record.pid = pid;
    // Nothing is left to be done between its set-up and its start: it finds the order when it
    // comes so far, and need not wait.
    let ordered = !waits
        && !has_terminal
        && maker.is_none()
        && options.pid_file.is_none()
        && options.pidfd_socket.is_none();
    recorded(container, config, &channel, waits)
        .and_then(|()| match ordered {
            true => {
                if !detached {
                    foreground::hold_signals();
                }
                start::order(&channel)
            }
            false => Ok(()),
        })
        .and_then(|()| lead(container, config, &channel, pauses, maker))
        .and_then(|master| {
            if waits {
                container.save()?;
            }
            let kept = terminal::deliver(master, options.console_socket.as_deref())?;
            if let Some(path) = &options.pidfd_socket {
                terminal::deliver_pidfd(pid, path)?;
            }
            if let Some(path) = &options.pid_file {
                pid_file::write(path, pid)?;
            }
            Ok((kept, channel, ordered))
        })
        .inspect_err(|_| spawn::end(pid))
        .map_err(|error| {
            let doing = "unable to start container process: error during container init";
            Error::new(error.kind(), doing).with_source(error)
        })
}

/// Notes the new process down, on disk, too, if it will not wait at its socket, and gives it its
/// network devices.
fn recorded(
    container: &mut Container,
    config: &Config,
    channel: &Channel,
    waits: bool,
) -> Result<()> {
    let pid = container.record.pid;
    let Some(start_time) = container::start_time(pid) else {
        // It has ended already, and may have said why.
        ready(channel)?;
        return Err(Error::host(
            "the container's process died before its set-up",
        ));
    };
    container.record.start_time = start_time;
    log::debug(|| format!("child process in init(): {pid}"));
    if !waits {
        container.save()?;
        trace::phase("state written");
    }
    if let Some(rdt) = &container.record.rdt {
        rdt.add_process(pid)?;
    }
    let devices = &config.linux.net_devices;
    if !devices.is_empty() {
        network_devices::move_all(devices, pid)?;
        channel.send(&Order::Go, &[])?;
    }
    Ok(())
}

/// Leads the new process through its set-up; gives the terminal's master.
fn lead(
    container: &Container,
    config: &Config,
    channel: &Channel,
    pauses: bool,
    maker: Option<Maker>,
) -> Result<Option<OwnedFd>> {
    if pauses {
        ready(channel)?;
        drop(maker);
        // Hooks may ask for the state.
        container.save()?;
        let state = |status| container.state(status).to_json();
        hooks::run(
            "prestart",
            &config.hooks.prestart,
            &state(Status::Creating)?,
        )?;
        hooks::run(
            "createRuntime",
            &config.hooks.create_runtime,
            &state(Status::Creating)?,
        )?;
        channel.send(&Order::Hooks(state(Status::Created)?), &[])?;
    }
    let terminal = ready(channel)?.pop();
    trace::phase("process set up");
    log::debug(|| "init: closing the pipe to signal completion".into());
    Ok(terminal)
}

pub(super) fn ready(channel: &Channel) -> Result<Vec<OwnedFd>> {
    match channel.report()? {
        Some((Report::Ready, descriptors)) => Ok(descriptors),
        _ => Err(Error::host(
            "the container's process died while it was set up: is its memory limit too low?",
        )),
    }
}

/// Copies of ours; none for a process with a terminal.
pub(super) fn standard_streams(workload: &Workload) -> Result<Option<[OwnedFd; 3]>> {
    if workload.process.terminal.is_some() {
        return Ok(None);
    }
    let copy = |number: i32| sys::duplicate(number).host(|| format!("copy descriptor {number}"));
    Ok(Some([copy(0)?, copy(1)?, copy(2)?]))
}
