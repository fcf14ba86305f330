//! Templates: what guests of one size go on from instead of booting.
//!
//! A template is a guest that was stopped when its agent was ready and nothing was attached to it:
//! no image, no disk, no network, no configuration. Guests that start from it map its memory and
//! share what they do not change. It is told nothing before, so that nothing of one sandbox can be
//! in another; each guest is given random numbers, clock, addresses and name of its own with its
//! configuration.
//!
//! Invariant: a guest only goes on from a template of the same kernel, agent, monitor, processor
//! and boot of the host, which [`Identity`] names. Anything else is another template.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bulkhead_guest::frame::MAX_FROM_GUEST;
use bulkhead_guest::{Channel, Event, Message, VERSION};
use bulkhead_model::{Error, Resources, Result};
use rustix::fs::FlockOperation;

use crate::backend::MicroVmConfig;
use crate::cache::fingerprint;
use crate::console::Log;
use crate::monitor::{Machine, Monitor, Origin, Running, TemplateFiles};

/// Templates that are kept: their memory is some tens of MiB each in the cache.
const MAX_COUNT: usize = 8;

/// A guest that becomes a template may have a low priority.
const BOOT_TIMEOUT: Duration = Duration::from_secs(120);

/// What a template is of. A guest of any other identity cannot go on from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Kernel, agent, monitor, processor, boot of the host.
    generation: String,
    /// Memory and processors.
    size: String,
}

impl Identity {
    /// # Errors
    /// If a part of it cannot be looked at.
    pub(crate) fn of(machine: &Machine, monitor: &dyn Monitor) -> io::Result<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let processors = fs::read_to_string("/proc/cpuinfo")?;
        let first = processors.split("\n\n").next().unwrap_or_default();
        // The lines that change while the processor runs.
        let steady = first
            .lines()
            .filter(|line| !line.starts_with("cpu MHz") && !line.starts_with("bogomips"));
        let processor = fingerprint(steady.collect::<Vec<_>>().join("\n").as_bytes());
        Ok(Self {
            generation: format!(
                "kernel {}\nagent {}\nmonitor {}\naccelerator {}\nprocessor {processor:016x}\nboot {}",
                of_file(&machine.kernel)?,
                of_file(&machine.initramfs)?,
                of_file(&monitor.program()?)?,
                machine.accelerator,
                boot.trim(),
            ),
            size: format!("{} MiB, {} processors", machine.memory_mib, machine.cpus),
        })
    }

    fn text(&self) -> String {
        format!("{}\nsize {}\n", self.generation, self.size)
    }

    fn directory(&self, cache_dir: &Path) -> PathBuf {
        let name = format!("{:016x}", fingerprint(self.text().as_bytes()));
        templates(cache_dir).join(name)
    }
}

/// Names a file's content by what changes with it.
fn of_file(path: &Path) -> io::Result<String> {
    let metadata = fs::metadata(path)?;
    Ok(format!(
        "{} {} {} {}.{:09}",
        path.display(),
        metadata.ino(),
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec()
    ))
}

fn templates(cache_dir: &Path) -> PathBuf {
    cache_dir.join("templates")
}

fn files(directory: &Path) -> TemplateFiles {
    TemplateFiles {
        memory: directory.join("memory"),
        state: directory.join("state"),
    }
}

/// The template of this identity, if there is one.
pub(crate) fn find(identity: &Identity, cache_dir: &Path) -> Option<TemplateFiles> {
    let directory = identity.directory(cache_dir);
    // The name is a digest that resists accidents only.
    let text = fs::read_to_string(directory.join("identity")).ok()?;
    (text == identity.text()).then(|| files(&directory))
}

/// Makes the template for guests with these limits, unless it is there. Takes as long as a boot, at
/// the priority of the calling thread, with which the monitor dies.
///
/// # Errors
/// If the guest does not boot or cannot be saved. Nothing half-made is found by anybody.
pub fn prepare(config: &MicroVmConfig, resources: &Resources) -> Result<()> {
    let failed = |error: io::Error| Error::host("make a template for micro VMs").with_source(error);
    let monitor = config.monitor();
    let mut machine = config.bare_machine(resources)?;
    let identity = Identity::of(&machine, &*monitor).map_err(failed)?;
    let cache_dir = &config.cache_dir;
    fs::create_dir_all(templates(cache_dir)).map_err(failed)?;
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(templates(cache_dir).join(".lock"))
        .map_err(failed)?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)
        .map_err(|errno| failed(errno.into()))?;
    if find(&identity, cache_dir).is_some() {
        return Ok(());
    }
    remove_outdated(&identity, cache_dir).map_err(failed)?;
    let directory = identity.directory(cache_dir);
    let partial = directory.with_extension("partial");
    fs::create_dir(&partial).map_err(failed)?;
    machine.origin = Origin::Prototype(files(&partial));
    let result = take(&machine, &*monitor, &files(&partial)).and_then(|()| {
        fs::write(partial.join("identity"), identity.text())
            .and_then(|()| fs::rename(&partial, &directory))
            .map_err(failed)
    });
    if result.is_err() {
        // The next to make one removes it otherwise.
        let _ = fs::remove_dir_all(&partial);
    }
    result
}

/// Removes the templates that no guest can go on from any more, and the oldest of too many. Legal
/// under the lock only. A guest that runs keeps what it has mapped.
fn remove_outdated(identity: &Identity, cache_dir: &Path) -> io::Result<()> {
    let mut current = Vec::new();
    for entry in fs::read_dir(templates(cache_dir))? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            continue;
        }
        let path = entry.path();
        let text = fs::read_to_string(path.join("identity")).unwrap_or_default();
        let is_partial = path.extension().is_some();
        if is_partial || !text.starts_with(&format!("{}\n", identity.generation)) {
            fs::remove_dir_all(path)?;
        } else {
            current.push((entry.metadata()?.modified()?, path));
        }
    }
    current.sort();
    let surplus = (current.len() + 1).saturating_sub(MAX_COUNT);
    for (_, path) in &current[..surplus] {
        fs::remove_dir_all(path)?;
    }
    Ok(())
}

/// Boots the guest, waits until its agent is ready, and saves it.
fn take(machine: &Machine, monitor: &dyn Monitor, files: &TemplateFiles) -> Result<()> {
    let Running {
        mut process,
        agent,
        console,
        errors,
        mut control,
    } = monitor.start(machine)?;
    let mut log = Log::new(None);
    // Open for as long as the template is taken: a guest that has seen it close would go on with a
    // closed one.
    let mut channel = Channel::new(agent, MAX_FROM_GUEST);
    let result = wait_for_agent(&mut channel, &console, &mut log).and_then(|()| {
        let state = File::create(&files.state)
            .map_err(|error| Error::host("make a template's state").with_source(error))?;
        control.save(state.into())
    });
    // It has done what it was started for, or has failed to.
    let _ = process.kill();
    let _ = process.wait();
    result.map_err(|error| {
        let mut said = Log::new(None);
        said.read_from(&errors);
        let words = [said.last_words(), log.last_words()].join("; ");
        Error::host(format!(
            "make a template for micro VMs: {}",
            words.trim_matches([';', ' '])
        ))
        .with_source(error)
    })
}

fn wait_for_agent(channel: &mut Channel, console: &OwnedFd, log: &mut Log) -> Result<()> {
    let deadline = Instant::now() + BOOT_TIMEOUT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::channel("the guest did not boot in time"));
        }
        let events = channel
            .turn(&[console.as_fd()], Some(left))
            .map_err(|error| Error::channel("the guest ended").with_source(error))?;
        for event in events {
            match event {
                Event::Message(Message::Hello { version: VERSION }) => return Ok(()),
                Event::Message(other) => {
                    return Err(Error::channel(format!("the agent began with {other:?}")));
                }
                Event::Readable(_) => drop(log.read_from(console)),
                Event::SourceEnded(_) | Event::SinkEnded(_) => {}
            }
        }
    }
}
