//! What both `checkpoint` and `restore` tell CRIU: the flags that they share, and the mounts and
//! namespaces of the container that are not its own (`criu_opts`).

use std::fs::{self, DirBuilder, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use bulkhead_model::{Error, Result};

use crate::cgroup::Directory;
use crate::failure::Context;

use super::super::arguments::Arguments;
use super::super::plan::Plan;
use super::wire::Message;

/// The directories that CRIU reads and writes.
#[derive(Debug)]
pub(in crate::oci) struct Images {
    pub(in crate::oci) path: PathBuf,
    images: OwnedFd,
    /// The log's directory, if it is not that of the images.
    work: Option<(PathBuf, OwnedFd)>,
}

impl Images {
    /// `--image-path` and `--work-path`, made if they are missing.
    pub(in crate::oci) fn new(arguments: &Arguments) -> Result<Self> {
        let path = PathBuf::from(given(arguments, "image-path").unwrap_or("checkpoint"));
        let images = directory(&path, "--image-path")?;
        let work = given(arguments, "work-path").map(PathBuf::from);
        let work = work
            .map(|path| directory(&path, "--work-path").map(|descriptor| (path, descriptor)))
            .transpose()?;
        Ok(Self { path, images, work })
    }

    pub(in crate::oci) fn log(&self, name: &str) -> PathBuf {
        let directory = self.work.as_ref().map_or(&self.path, |(path, _)| path);
        directory.join(name)
    }
}

fn given<'a>(arguments: &'a Arguments, name: &str) -> Option<&'a str> {
    arguments.value(name).filter(|value| !value.is_empty())
}

fn directory(path: &Path, flag: &str) -> Result<OwnedFd> {
    DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(path)
        .host(|| format!("{flag}: make {}", path.display()))?;
    let opened = File::open(path).host(|| format!("{flag}: open {}", path.display()))?;
    Ok(opened.into())
}

/// `criu_opts` that is being written.
#[derive(Debug)]
pub(in crate::oci) struct Settings {
    pub(in crate::oci) message: Message,
}

impl Settings {
    /// What the flags and the annotations of the container say.
    ///
    /// # Errors
    /// Names the flag.
    pub(in crate::oci) fn new(
        arguments: &Arguments,
        images: &Images,
        log: &str,
        config_file: Option<&str>,
    ) -> Result<Self> {
        let mut message = Message::default();
        message
            .number(1, images.images.as_raw_fd() as u64)
            .number(9, 4)
            .text(10, log)
            .flag(12, true)
            // Old versions know only this one.
            .flag(24, true)
            .number(34, cgroups_mode(arguments)?)
            .number(38, empty_namespaces(arguments)?)
            .flag(50, true);
        for (field, name) in [
            (4, "ext-unix-sk"),
            (5, "tcp-established"),
            (7, "shell-job"),
            (8, "file-locks"),
            (16, "auto-dedup"),
            (48, "lazy-pages"),
        ] {
            message.flag(field, arguments.is_set(name));
        }
        if let Some((_, work)) = &images.work {
            message.number(17, work.as_raw_fd() as u64);
        }
        // The annotation is CRIU's convention; an empty one asks for no file.
        match config_file.unwrap_or("/etc/criu/runc.conf") {
            "" => {}
            path => drop(message.text(51, path)),
        }
        Ok(Self { message })
    }

    /// A mount that is not made of the images, by its place in the container; at a checkpoint its
    /// `other` is a name for it, at a restore what is bound there.
    pub(in crate::oci) fn external_mount(&mut self, place: &str, other: &str) {
        let mut pair = Message::default();
        pair.text(1, place).text(2, other);
        self.message.message(23, &pair);
    }

    /// A descriptor that the restored processes take over.
    pub(in crate::oci) fn inherit(&mut self, name: &str, descriptor: i32) {
        let mut pair = Message::default();
        pair.text(1, name).number(2, descriptor as u64);
        self.message.message(27, &pair);
    }
}

fn cgroups_mode(arguments: &Arguments) -> Result<u64> {
    match arguments.value("manage-cgroups-mode").unwrap_or_default() {
        "ignore" => Ok(0),
        "soft" => Ok(3),
        "full" => Ok(4),
        "strict" => Ok(5),
        "" => Ok(6),
        other => Err(Error::invalid(format!(
            "--manage-cgroups-mode: '{other}' is none of soft, full, strict and ignore"
        ))),
    }
}

/// Network devices are somebody else's (of hooks, or of who made the namespace), so that a network
/// namespace is always made anew and empty.
fn empty_namespaces(arguments: &Arguments) -> Result<u64> {
    if let Some(other) = arguments.all("empty-ns").find(|name| *name != "network") {
        return Err(Error::unsupported(format!(
            "--empty-ns: namespace '{other}' is not supported: only network is"
        )));
    }
    Ok(libc::CLONE_NEWNET as u64)
}

/// `--page-server`.
pub(in crate::oci) fn page_server(arguments: &Arguments) -> Result<Option<Message>> {
    let Some(text) = given(arguments, "page-server") else {
        return Ok(None);
    };
    let parsed = text
        .rsplit_once(':')
        .map(|(address, port)| (address.trim_matches(['[', ']']), port.parse::<u16>()));
    let Some((address @ [_, ..], Ok(port @ 1..))) =
        parsed.map(|(address, port)| (address.as_bytes(), port))
    else {
        return Err(Error::invalid(format!(
            "--page-server: '{text}' is not ADDRESS:PORT"
        )));
    };
    let mut message = Message::default();
    message
        .text(1, &String::from_utf8_lossy(address))
        .number(2, port.into());
    Ok(Some(message))
}

/// `--parent-path`, which is relative to the images.
pub(in crate::oci) fn parent(arguments: &Arguments, images: &Images) -> Result<Option<String>> {
    let Some(text) = given(arguments, "parent-path") else {
        return Ok(None);
    };
    if Path::new(text).components().next() == Some(Component::RootDir) {
        return Err(Error::invalid(format!(
            "--parent-path: '{text}' must be relative to --image-path"
        )));
    }
    let path = images.path.join(text);
    if !path.is_dir() {
        return Err(Error::invalid(format!(
            "invalid --parent-path: {} is no directory",
            path.display()
        )));
    }
    Ok(Some(text.to_owned()))
}

/// The name under which a namespace that the container joined is kept.
pub(in crate::oci) fn external_namespace(flag: i32) -> Option<(&'static str, &'static str)> {
    match flag {
        libc::CLONE_NEWNET => Some(("net", "extRootNetNS")),
        libc::CLONE_NEWPID => Some(("pid", "extRootPidNS")),
        _ => None,
    }
}

/// Where groups are bound into a container, with what is bound: without a cgroup namespace they
/// are mounts of the host's.
pub(in crate::oci) fn bound_groups(
    plan: &Plan,
    directories: &[Directory],
    v2: bool,
    target: &str,
) -> Vec<(String, String)> {
    if plan.has(libc::CLONE_NEWCGROUP) {
        return Vec::new();
    }
    let target = target.trim_end_matches('/');
    let shown = directories.iter().filter(|group| v2 || !group.unified);
    shown
        .map(|group| {
            let source = group.path.to_string_lossy().into_owned();
            if v2 {
                return (target.to_owned(), source);
            }
            let name = group.controllers.join(",");
            let name = name.trim_start_matches("name=");
            (format!("{target}/{name}"), source)
        })
        .collect()
}

/// The file in which the names of the standard streams are kept, as runc does.
pub(in crate::oci) const DESCRIPTORS: &str = "descriptors.json";

/// # Errors
/// The file is missing or malformed.
pub(in crate::oci) fn read_descriptors(images: &Images) -> Result<Vec<String>> {
    let path = images.path.join(DESCRIPTORS);
    let doing = || format!("--image-path: read {}", path.display());
    let text = fs::read_to_string(&path).host(doing)?;
    serde_json::from_str(&text).map_err(|error| Error::host(doing()).with_source(error))
}

/// # Errors
/// It cannot be written.
pub(in crate::oci) fn write_descriptors(images: &Images, init: u32) -> Result<()> {
    let path = images.path.join(DESCRIPTORS);
    let name = |number: i32| -> String {
        let link = fs::read_link(format!("/proc/{init}/fd/{number}"));
        link.map_or(String::new(), |path| path.to_string_lossy().into_owned())
    };
    let names: Vec<String> = (0..3).map(name).collect();
    let text = serde_json::json!(names).to_string();
    fs::write(&path, text).host(|| format!("write {}", path.display()))
}
