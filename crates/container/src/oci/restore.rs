//! `restore`: makes a container whose processes come from the files of a checkpoint.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use bulkhead_model::{Error, Result};
use rustix::fs::CWD;
use rustix::mount::{MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};
use rustix::mount::{mount_change, move_mount, open_tree, unmount};

use crate::cgroup::Cgroup;
use crate::failure::Context;
use crate::resolve::{self, Root};
use crate::{sys, time};

use super::arguments::{Arguments, Flag, flag, option};
use super::config::{self, Config};
use super::container::{self, Container, Record, Status};
use super::create::path;
use super::criu::{self, Images, Notification, Request, Service, Settings};
use super::plan::{MountKind, Plan};
use super::rdt::Rdt;
use super::{Global, delete, foreground, hooks, mount_maker, pid_file, resources, terminal};

pub(super) const FLAGS: &[Flag] = &[
    option("console-socket", None),
    option("image-path", None),
    option("work-path", None),
    flag("tcp-established", None),
    flag("ext-unix-sk", None),
    flag("shell-job", None),
    flag("file-locks", None),
    option("manage-cgroups-mode", None),
    option("bundle", Some('b')),
    flag("detach", Some('d')),
    option("pid-file", None),
    flag("no-subreaper", None),
    flag("no-pivot", None),
    option("empty-ns", None),
    flag("auto-dedup", None),
    flag("lazy-pages", None),
    option("lsm-profile", None),
    option("lsm-mount-context", None),
];

const LOG: &str = "restore.log";

pub(super) fn main(global: &Global, arguments: &[String]) -> Result<u8> {
    let arguments = Arguments::parse(arguments, FLAGS)?;
    let detached = arguments.is_set("detach");
    let mut restore = Restore::prepare(global, &arguments, detached)?;
    let mut master = None;
    let restored = restore.carry_out(&arguments, &mut master).and_then(|()| {
        let pid = restore.container.record.pid;
        path(&arguments, "pid-file").map_or(Ok(()), |path| pid_file::write(&path, pid))
    });
    let container = restore.container;
    if let Err(error) = restored {
        undo(&container);
        return Err(error);
    }
    if detached {
        return Ok(0);
    }
    foreground::hold_signals();
    let code = foreground::wait(container.record.pid, master);
    delete::destroy_own(&global.root, &container)?;
    code
}

/// Removes what a failed restore has made; by its state the next delete finds what cannot be
/// removed.
fn undo(container: &Container) {
    let destroyed = container.cgroup().destroy();
    let rdt = container.record.rdt.as_ref();
    if destroyed.is_ok() && rdt.is_none_or(|rdt| rdt.remove().is_ok()) {
        let _ = container.remove();
    }
}

/// A container that has everything but its processes.
struct Restore {
    container: Container,
    config: Config,
    plan: Plan,
    images: Images,
    program: PathBuf,
    console_socket: Option<PathBuf>,
}

impl Restore {
    /// # Errors
    /// Nothing is left of the container then.
    fn prepare(global: &Global, arguments: &Arguments, detached: bool) -> Result<Self> {
        let id = arguments.only_container()?;
        if global.systemd {
            return Err(Error::unsupported(
                "--systemd-cgroup is not supported by restore: leave it out, and name the cgroup \
                 by linux.cgroupsPath",
            ));
        }
        container::check_id(id)?;
        container::check_new(&global.root, id)?;
        let bundle = PathBuf::from(arguments.value("bundle").unwrap_or("."));
        let bundle = bundle.canonicalize().map_err(|error| {
            Error::invalid(format!("the bundle {}", bundle.display())).with_source(error)
        })?;
        let text = config::read_text(&bundle.join("config.json"))?;
        let config: Config = config::parse(&text, "config.json")?;
        let raw = config::parse(&text, "config.json")?;
        let plan = Plan::new(&config, &bundle, arguments.is_set("no-pivot"))?;
        criu::refuse_unsupported(&plan)?;
        let has_terminal = config
            .process
            .as_ref()
            .is_some_and(|process| process.terminal);
        let console_socket = path(arguments, "console-socket");
        terminal::check(has_terminal, detached, console_socket.as_deref())?;
        let images = Images::new(arguments)?;

        let place = config.linux.cgroups_path.as_deref();
        let mut group =
            Cgroup::at_path(place.filter(|place| !place.is_empty()), id, global.rootless)?;
        group.check_vacant()?;
        let rdt = match &config.linux.intel_rdt {
            Some(wanted) => Some(Rdt::new(wanted, id)?),
            None => None,
        };
        let settings = resources::settings(&config.linux.resources, group.is_v2())?;
        let devices = resources::device_rules(&config.linux.resources.devices)?;
        let record = Record::new(id, &bundle, (&config, raw), &plan, (&group, rdt.as_ref()));
        let mut container = Container::make(&global.root, record)?;
        // The first failure is the one to tell about.
        group
            .make_at_path(&settings, &devices, &config.annotations)
            .inspect_err(|_| drop(container.remove()))?;
        container.record.cgroup = group.clone();
        let limited = group
            .set_device_rules(&devices)
            .and_then(|()| group.apply(&settings))
            .and_then(|()| match (&rdt, &config.linux.intel_rdt) {
                (Some(rdt), Some(wanted)) => rdt.make(wanted),
                _ => Ok(()),
            });
        if let Err(error) = limited {
            undo(&container);
            return Err(error);
        }
        Ok(Self {
            container,
            config,
            plan,
            images,
            program: criu::program(global.criu.as_deref()),
            console_socket,
        })
    }

    /// Has CRIU make the processes; `master` gets the terminal that nobody else has asked for.
    fn carry_out(&mut self, arguments: &Arguments, master: &mut Option<OwnedFd>) -> Result<()> {
        let stage = Stage::enter()?;
        let started = self.start(arguments);
        stage.leave()?;
        let (service, mut settings) = started?;

        self.container.cgroup().add_process(service.pid())?;
        if let Some(rdt) = &self.container.record.rdt {
            // What CRIU forks is where CRIU is.
            rdt.add_process(service.pid())?;
        }
        for (controller, path) in groups_of(service.pid())? {
            let mut group = criu::Message::default();
            group.text(1, &controller).text(2, &path);
            settings.message.message(25, &group);
        }
        let log = self.images.log(LOG);
        service
            .carry_out(Request::Restore, &settings.message, |notification| {
                self.notified(notification, master)
            })
            .map_err(|error| criu::explained(error, &log))?;
        if self.container.record.pid == 0 {
            return Err(Error::host("criu restored no process"));
        }
        Ok(())
    }

    /// Starts CRIU. Legal on the stage, whose mounts are then CRIU's.
    fn start(&mut self, arguments: &Arguments) -> Result<(Service, Settings)> {
        // CRIU mounts in its directory, which must be of its own mount namespace.
        self.images = Images::new(arguments)?;
        let config_file = self.container.record.annotations.get("org.criu.config");
        let config_file = config_file.map(String::as_str);
        let mut settings = Settings::new(arguments, &self.images, LOG, config_file)?;
        // Children of ours, as after a create.
        settings.message.flag(6, true).flag(26, true);
        for (field, name) in [(53, "lsm-profile"), (63, "lsm-mount-context")] {
            if let Some(value) = arguments.value(name).filter(|value| !value.is_empty()) {
                settings.message.text(field, value);
            }
        }
        let namespaces = self.join_namespaces(&mut settings)?;
        for (number, name) in criu::read_descriptors(&self.images)?.iter().enumerate() {
            if name.contains("pipe:") {
                settings.inherit(name, number as i32);
            }
        }
        self.make_root(&mut settings)?;
        Ok((Service::start(&self.program, &namespaces)?, settings))
    }

    /// The namespaces that are there already: those of network and processes are handed over, the
    /// others CRIU joins by their path.
    fn join_namespaces(&self, settings: &mut Settings) -> Result<Vec<OwnedFd>> {
        let mut opened = Vec::new();
        for (flag, path) in &self.plan.joined {
            if let Some((_, key)) = criu::external_namespace(*flag) {
                let file = File::open(path)
                    .host(|| format!("linux.namespaces: open {}", path.display()))?;
                settings.inherit(key, file.as_raw_fd());
                opened.push(file.into());
                continue;
            }
            let name = match *flag {
                libc::CLONE_NEWIPC => "ipc",
                libc::CLONE_NEWUTS => "uts",
                libc::CLONE_NEWNS => "mnt",
                _ => {
                    return Err(Error::unsupported(format!(
                        "linux.namespaces: criu cannot join {}: leave its path out",
                        path.display()
                    )));
                }
            };
            let mut join = criu::Message::default();
            join.text(1, name).text(2, &path.to_string_lossy());
            settings.message.message(39, &join);
        }
        Ok(opened)
    }

    /// Mounts the root filesystem where CRIU wants it, on a mount point of its own, after what
    /// mounts need has been made in it. Legal on the stage.
    fn make_root(&self, settings: &mut Settings) -> Result<()> {
        let place = self.container.make_restored_root()?;
        let doing = || format!("root.path: mount {}", self.plan.rootfs.display());
        let attach = || -> Result<OwnedFd> {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_RECURSIVE;
            let tree = open_tree(CWD, &self.plan.rootfs, flags).host(doing)?;
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            move_mount(&tree, "", CWD, &place, flags).host(doing)?;
            Ok(tree)
        };
        let root = Root::of(attach()?);
        let group = self.container.cgroup();
        for (index, mount) in self.plan.mounts.iter().enumerate() {
            let found = match &mount.kind {
                MountKind::Cgroup => {
                    let (directories, v2) = (group.directories(), group.is_v2());
                    let bound = criu::bound_groups(&self.plan, directories, v2, &mount.target);
                    for (place, source) in bound {
                        settings.external_mount(&place, &source);
                    }
                    continue;
                }
                MountKind::Remount => continue,
                // Restored with all that is in it, places for mounts too.
                _ if self.is_on_tmpfs(&mount.target) => None,
                MountKind::Filesystem(_) => root.directory(&mount.target).map(Some)?,
                MountKind::Bind => {
                    let doing = |error: Error| {
                        let field = format!("mounts[{index}]: {}", mount.target);
                        Error::new(error.kind(), field).with_source(error)
                    };
                    let copy = mount_maker::bind_source(mount).map_err(doing)?;
                    let directory = resolve::is_directory(&copy)
                        .host(|| format!("look at {}", mount.source))?;
                    let target = if directory {
                        root.directory(&mount.target)
                    } else {
                        root.file(&mount.target)
                    };
                    let target = target.map_err(doing)?;
                    // For what is mounted inside of it.
                    resolve::attach(&copy, &target)
                        .host(|| format!("mounts[{index}]: {}", mount.target))?;
                    Some(target)
                }
            };
            if let MountKind::Bind = mount.kind {
                let inside = match found {
                    Some(found) => {
                        let path = criu::path_of(found)?;
                        path.strip_prefix(&place.to_string_lossy().into_owned())
                            .unwrap_or(&path)
                            .to_owned()
                    }
                    None => mount.target.clone(),
                };
                settings.external_mount(&inside, &mount.source);
            }
        }
        drop(root);
        unmount(&place, UnmountFlags::DETACH).host(doing)?;
        attach()?;
        settings.message.text(13, &place.to_string_lossy());
        Ok(())
    }

    fn is_on_tmpfs(&self, target: &str) -> bool {
        self.plan.mounts.iter().any(|mount| {
            let fresh = matches!(&mount.kind, MountKind::Filesystem(kind) if kind == "tmpfs");
            let rest = target.strip_prefix(mount.target.trim_end_matches('/'));
            fresh && rest.is_some_and(|rest| rest.len() > 1 && rest.starts_with('/'))
        })
    }

    fn notified(&mut self, notification: Notification, master: &mut Option<OwnedFd>) -> Result<()> {
        match notification.script.as_str() {
            "setup-namespaces" => {
                self.container.record.pid = notification.pid;
                if self.plan.new & libc::CLONE_NEWNET != 0 {
                    loopback_up_of(notification.pid)?;
                }
                let state = self.container.state(Status::Creating).to_json()?;
                let hooks = &self.config.hooks;
                hooks::run("prestart", &hooks.prestart, &state)?;
                hooks::run("createRuntime", &hooks.create_runtime, &state)
            }
            "post-restore" => {
                let record = &mut self.container.record;
                record.pid = notification.pid;
                record.start_time = container::start_time(record.pid)
                    .ok_or_else(|| Error::host("the restored process has died"))?;
                record.created = time::now();
                // CRIU restores into a time namespace, so that clocks go on where they were.
                let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/time"));
                if namespace(&record.pid.to_string()).ok() != namespace("self").ok() {
                    record.namespaces |= libc::CLONE_NEWTIME;
                }
                self.container.save()
            }
            "orphan-pts-master" => {
                let terminal = notification.descriptors.into_iter().next();
                *master = terminal::deliver(terminal, self.console_socket.as_deref())?;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// A mount namespace of our own, for mounts that nobody else is to see and that are gone with
/// CRIU. Legal in a process with one thread.
struct Stage {
    host: File,
    directory: File,
}

impl Stage {
    fn enter() -> Result<Self> {
        let doing = || "make a mount namespace for criu".to_owned();
        let stage = Self {
            host: File::open("/proc/self/ns/mnt").host(doing)?,
            directory: File::open(".").host(doing)?,
        };
        sys::unshare(libc::CLONE_NEWNS).host(doing)?;
        let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        mount_change("/", flags).host(doing)?;
        Ok(stage)
    }

    fn leave(self) -> Result<()> {
        let doing = || "return to the mount namespace".to_owned();
        sys::setns(self.host.as_fd(), libc::CLONE_NEWNS).host(doing)?;
        // Joining has led to the root.
        rustix::process::fchdir(&self.directory).host(doing)
    }
}

/// The groups of a process by their controllers, each by its own name.
fn groups_of(pid: u32) -> Result<Vec<(String, String)>> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))
        .host(|| "read the cgroups of criu".into())?;
    let mut groups = Vec::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        if let (Some(controllers), Some(path)) = (fields.next(), fields.next()) {
            for controller in controllers.split(',') {
                groups.push((controller.to_owned(), path.to_owned()));
            }
        }
    }
    Ok(groups)
}

/// Sets the loopback interface of a process's network namespace up, as a create does.
fn loopback_up_of(pid: u32) -> Result<()> {
    let doing = || "set the loopback interface up".to_owned();
    let ours = File::open("/proc/self/ns/net").host(doing)?;
    let theirs = File::open(format!("/proc/{pid}/ns/net")).host(doing)?;
    sys::setns(theirs.as_fd(), libc::CLONE_NEWNET).host(doing)?;
    let done = sys::loopback_up();
    sys::setns(ours.as_fd(), libc::CLONE_NEWNET).host(doing)?;
    done.host(doing)
}
