//! `checkpoint`: writes the state of a container's processes to files, and removes the container
//! unless it is to go on.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use bulkhead_model::{Error, Result};
use rustix::fs::OFlags;

use crate::failure::Context;
use crate::resolve::Root;
use crate::sys;

use super::arguments::{Arguments, Flag, flag, option};
use super::container::{Container, Status};
use super::criu::{self, Images, Request, Service, Settings};
use super::plan::{MountKind, Plan};
use super::{Global, delete};

pub(super) const FLAGS: &[Flag] = &[
    option("image-path", None),
    option("work-path", None),
    option("parent-path", None),
    flag("leave-running", None),
    flag("tcp-established", None),
    flag("tcp-skip-in-flight", None),
    flag("link-remap", None),
    flag("ext-unix-sk", None),
    flag("shell-job", None),
    flag("lazy-pages", None),
    option("status-fd", None),
    option("page-server", None),
    flag("file-locks", None),
    flag("pre-dump", None),
    option("manage-cgroups-mode", None),
    option("empty-ns", None),
    flag("auto-dedup", None),
];

const LOG: &str = "dump.log";

pub(super) fn main(global: &Global, arguments: &[String]) -> Result<()> {
    let arguments = Arguments::parse(arguments, FLAGS)?;
    let container = Container::load(&global.root, arguments.only_container()?)?;
    match container.status() {
        Status::Running | Status::Paused => {}
        status => {
            return Err(Error::conflict(format!(
                "container cannot be checkpointed in {} state",
                status.name()
            )));
        }
    }
    let images = Images::new(&arguments)?;
    let program = criu::program(global.criu.as_deref());
    let pre_dump = arguments.is_set("pre-dump");
    if pre_dump {
        require(&program, 1, "--pre-dump", "MemTrack")?;
    }
    if arguments.is_set("lazy-pages") {
        require(&program, 2, "--lazy-pages", "LazyPages")?;
    }
    let mut status = status_file(&arguments)?;
    let mut settings = settings(&container, &arguments, &images)?;
    let request = if pre_dump {
        Request::PreDump
    } else {
        external_parts(&container, &mut settings)?;
        criu::write_descriptors(&images, container.record.pid)?;
        Request::Dump
    };
    Service::start(&program, &[])?
        .carry_out(request, &settings.message, |notification| {
            if notification.script == "status-ready"
                && let Some(mut file) = status.take()
            {
                file.write_all(&[0])
                    .host(|| "--status-fd: write to it".into())?;
            }
            Ok(())
        })
        .map_err(|error| criu::explained(error, &images.log(LOG)))?;
    if pre_dump || arguments.is_set("leave-running") {
        return Ok(());
    }
    delete::destroy_own(&global.root, &container)
}

fn require(program: &Path, feature: u32, flag: &str, name: &str) -> Result<()> {
    if Service::start(program, &[])?.can(feature)? {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "{flag}: criu is missing features: [{name}]: this kernel or this version of criu cannot \
         do it"
    )))
}

/// The descriptor that is told when the memory can be asked for.
fn status_file(arguments: &Arguments) -> Result<Option<File>> {
    let number: Option<i32> = arguments.number("status-fd")?;
    let Some(number) = number.filter(|number| *number >= 0) else {
        return Ok(None);
    };
    let invalid =
        |error| Error::invalid(format!("invalid --status-fd argument {number}")).with_source(error);
    let copy = sys::duplicate(number).map_err(invalid)?;
    let flags =
        rustix::fs::fcntl_getfl(&copy).map_err(|error| invalid(std::io::Error::from(error)))?;
    if !flags.intersects(OFlags::WRONLY | OFlags::RDWR) {
        return Err(Error::invalid(format!(
            "invalid --status-fd argument {number}: not writable"
        )));
    }
    // The reader is to see its end when we have closed ours.
    drop(sys::inherited(number));
    Ok(Some(copy.into()))
}

fn settings(container: &Container, arguments: &Arguments, images: &Images) -> Result<Settings> {
    let record = &container.record;
    let config_file = record.annotations.get("org.criu.config");
    let mut settings = Settings::new(arguments, images, LOG, config_file.map(String::as_str))?;
    let message = &mut settings.message;
    message
        .number(2, record.pid.into())
        .text(13, &record.rootfs.to_string_lossy())
        .flag(3, arguments.is_set("leave-running"))
        .flag(18, arguments.is_set("link-remap"))
        .flag(46, arguments.is_set("tcp-skip-in-flight"));
    if let Some(server) = criu::page_server(arguments)? {
        message.message(11, &server);
    }
    if let Some(parent) = criu::parent(arguments, images)? {
        message.text(14, &parent).flag(15, true);
    }
    let group = container.cgroup();
    let freezer = group.directories().iter().find(|directory| {
        let names = &directory.controllers;
        group.is_v2() && directory.unified || names.iter().any(|name| name == "freezer")
    });
    if let Some(freezer) = freezer {
        message.text(44, &freezer.path.to_string_lossy());
    }
    Ok(settings)
}

/// Names the mounts and namespaces that come from outside, which CRIU would take for the
/// container's own or refuse.
fn external_parts(container: &Container, settings: &mut Settings) -> Result<()> {
    let record = &container.record;
    let plan = Plan::new(&container.config()?, &record.bundle, false)?;
    criu::refuse_unsupported(&plan)?;
    for (flag, path) in &plan.joined {
        let Some((name, key)) = criu::external_namespace(*flag) else {
            continue;
        };
        let number = fs::metadata(path)
            .host(|| format!("linux.namespaces: look at {}", path.display()))?
            .ino();
        settings
            .message
            .text(37, &format!("{name}[{number}]:{key}"));
    }
    let root = Root::open(format!("/proc/{}/root", record.pid).as_ref())?;
    let group = container.cgroup();
    for mount in &plan.mounts {
        match &mount.kind {
            MountKind::Bind => {
                // CRIU knows a mount by its place, not by a link that leads there.
                let place = match root.find(&mount.target, OFlags::PATH) {
                    Ok(found) => criu::path_of(found)?,
                    Err(_) => mount.target.clone(),
                };
                settings.external_mount(&place, &place);
            }
            MountKind::Cgroup => {
                let (directories, v2) = (group.directories(), group.is_v2());
                for (place, _) in criu::bound_groups(&plan, directories, v2, &mount.target) {
                    settings.external_mount(&place, &place);
                }
            }
            MountKind::Filesystem(_) | MountKind::Remount => {}
        }
    }
    Ok(())
}
