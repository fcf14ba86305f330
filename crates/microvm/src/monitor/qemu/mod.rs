//! QEMU's `microvm` machine, which runs with and without hardware virtualisation.

mod arguments;
mod control;

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use bulkhead_model::{Error, Result};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};

use super::{Machine, Monitor, Origin, Running, TemplateFiles};
use crate::console::Log;
use crate::launch::{self, Launch, Launcher};

use arguments::Arguments;
use control::Qmp;

/// Starts QEMU through the launcher.
#[derive(Debug)]
pub struct Qemu {
    pub program: PathBuf,
    pub launcher: Launcher,
}

impl Monitor for Qemu {
    fn start(&self, machine: &Machine) -> Result<Running> {
        let failed = |errno: Errno| Error::host("make the monitor's sockets").with_source(errno);
        let mut arguments = Arguments::default();
        let pair = || {
            let flags = SocketFlags::CLOEXEC;
            socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(failed)
        };
        let (agent, agent_theirs) = pair()?;
        let (console, console_theirs) = pair()?;
        let (control, control_theirs) = pair()?;
        let (errors, errors_theirs) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
        for descriptor in [&agent, &console, &errors] {
            rustix::io::ioctl_fionbio(descriptor, true).map_err(failed)?;
        }
        arguments.machine(machine)?;
        arguments.own_devices(agent_theirs, console_theirs, control_theirs)?;
        for disk in &machine.disks {
            arguments.disk(disk)?;
        }
        for share in &machine.shares {
            arguments.share(share)?;
        }
        for (index, interface) in machine.interfaces.iter().enumerate() {
            arguments.interface(index, interface)?;
        }
        let launch = Launch {
            program: self.program.clone(),
            arguments: arguments.list,
            descriptors: arguments.descriptors,
            control_groups: machine.control_groups.clone(),
            staged: machine.staged.clone(),
        };
        let mut process = launch::spawn(&self.launcher, launch, Stdio::from(errors_theirs))?;
        let mut control = Qmp::new(UnixStream::from(control))?;
        if let Origin::Template(files) = &machine.origin
            && let Err(error) = load(&mut control, files)
        {
            let _ = process.kill();
            let _ = process.wait();
            let mut said = Log::new(None);
            said.read_from(&errors);
            let words = said.last_words();
            return Err(Error::host(format!("go on from a template: {words}")).with_source(error));
        }
        Ok(Running {
            process,
            agent,
            console,
            errors,
            control: Box::new(control),
        })
    }

    fn program(&self) -> io::Result<PathBuf> {
        find_program(&self.program)
    }
}

/// Where a program is, by its path or by its name on the `PATH`.
///
/// # Errors
/// `NotFound`, or what keeps it from being looked at.
pub fn find_program(program: &Path) -> io::Result<PathBuf> {
    if program.components().count() > 1 {
        return fs::canonicalize(program);
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/usr/local/bin".into());
    std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| io::ErrorKind::NotFound.into())
        .and_then(fs::canonicalize)
}

fn load(control: &mut Qmp, files: &TemplateFiles) -> Result<()> {
    let state = fs::File::open(&files.state).map_err(|error| {
        Error::host(format!("open {}", files.state.display())).with_source(error)
    })?;
    control.load(state.into())
}
