//! QEMU's `microvm` machine, which runs with and without hardware virtualisation.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use bulkhead_guest::{DISK_SERIAL, IMAGE_SERIAL, PORT_NAME};
use bulkhead_model::{Error, Result};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};

use super::{Accelerator, Control, Machine, Monitor, Running};
use crate::launch::{self, Launch, Launcher, text};

/// A monitor answers within milliseconds; one that does not is broken.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Starts QEMU through the launcher.
#[derive(Debug)]
pub struct Qemu {
    pub program: PathBuf,
    pub launcher: Launcher,
}

impl Monitor for Qemu {
    fn start(&self, machine: Machine) -> Result<Running> {
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
        arguments.machine(&machine)?;
        arguments.channels(agent_theirs, console_theirs, control_theirs);
        arguments.disk("image", IMAGE_SERIAL, &text(&machine.image)?, true);
        arguments.disk("disk", DISK_SERIAL, &text(&machine.disk)?, false);
        for share in &machine.shares {
            let (tag, path) = (&share.tag, escape(&text(&share.path)?));
            let read_only = if share.read_only { "on" } else { "off" };
            arguments.add("-fsdev", format!(
                "local,id={tag},path={path},security_model=passthrough,multidevs=remap,readonly={read_only}"
            ));
            arguments.add(
                "-device",
                format!("virtio-9p-device,fsdev={tag},mount_tag={tag}"),
            );
        }
        for (index, interface) in machine.interfaces.into_iter().enumerate() {
            let [a, b, c, d, e, f] = interface.mac;
            let tap = arguments.pass(interface.tap);
            arguments.add("-netdev", format!("tap,id=net{index},fd={tap}"));
            arguments.add("-device", format!(
                "virtio-net-device,netdev=net{index},mac={a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"
            ));
        }
        let launch = Launch {
            program: self.program.clone(),
            arguments: arguments.list,
            descriptors: arguments.descriptors,
            control_groups: machine.control_groups,
            staged: machine.staged,
        };
        let process = launch::spawn(&self.launcher, launch, Stdio::from(errors_theirs))?;
        Ok(Running {
            process,
            agent,
            console,
            errors,
            control: Box::new(Qmp::new(UnixStream::from(control))?),
        })
    }
}

/// QEMU's command line, with the descriptors that it names.
#[derive(Debug, Default)]
struct Arguments {
    list: Vec<String>,
    descriptors: Vec<OwnedFd>,
}

impl Arguments {
    fn add(&mut self, option: &str, value: String) {
        self.list.extend([option.to_owned(), value]);
    }

    /// What stands for the descriptor's number, which only the launcher knows.
    fn pass(&mut self, descriptor: OwnedFd) -> String {
        self.descriptors.push(descriptor);
        format!("{{{}}}", self.descriptors.len() - 1)
    }

    fn machine(&mut self, machine: &Machine) -> Result<()> {
        let (accelerator, cpu) = match machine.accelerator {
            Accelerator::Kvm => ("kvm", "host"),
            // Translated code is kept in at most so many MiB; a kernel and a database fit.
            Accelerator::Tcg => ("tcg,thread=multi,tb-size=64", "max"),
        };
        self.list
            .extend(["-nodefaults", "-no-user-config", "-no-reboot"].map(str::to_owned));
        // PIT, PIC and RTC stay on: without them the kernel cannot calibrate its clocks under TCG
        // and hangs.
        self.add(
            "-machine",
            "microvm,acpi=off,x-option-roms=off,graphics=off".to_owned(),
        );
        self.add("-display", "none".to_owned());
        // A guest that breaks into the monitor finds no way to start programs or gain rights.
        self.add(
            "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".to_owned(),
        );
        self.add("-accel", accelerator.to_owned());
        self.add("-cpu", cpu.to_owned());
        self.add("-smp", machine.cpus.to_string());
        self.add("-m", format!("{}M", machine.memory_mib));
        self.add("-kernel", text(&machine.kernel)?);
        self.add("-initrd", text(&machine.initramfs)?);
        self.add("-append", command_line(machine));
        self.add("-device", "virtio-rng-device".to_owned());
        Ok(())
    }

    fn channels(&mut self, agent: OwnedFd, console: OwnedFd, control: OwnedFd) {
        for (name, descriptor) in [("agent", agent), ("console", console), ("control", control)] {
            let number = self.pass(descriptor);
            self.add("-chardev", format!("socket,id={name},fd={number}"));
        }
        self.add("-serial", "chardev:console".to_owned());
        self.add("-mon", "chardev=control,mode=control".to_owned());
        self.add("-device", "virtio-serial-device".to_owned());
        self.add(
            "-device",
            format!("virtserialport,chardev=agent,name={PORT_NAME}"),
        );
    }

    fn disk(&mut self, id: &str, serial: &str, path: &str, read_only: bool) {
        let path = escape(path);
        // The image is shared by many guests, and a disk has one sandbox: a lock adds nothing.
        let mode = if read_only {
            "readonly=on"
        } else {
            "discard=unmap"
        };
        self.add(
            "-drive",
            format!("id={id},if=none,format=raw,file.locking=off,{mode},file={path}"),
        );
        self.add(
            "-device",
            format!("virtio-blk-device,drive={id},serial={serial}"),
        );
    }
}

/// The guest kernel's command line.
fn command_line(machine: &Machine) -> String {
    let mut words = vec![
        // The kernel's warnings go to the console. A kernel that has gone wrong goes no further: it
        // resets the machine, which ends the monitor.
        "console=ttyS0 loglevel=4 oops=panic panic=-1 reboot=t".to_owned(),
        // What the monitor emulates is known, so that nothing of it is probed or measured.
        "no_timer_check lapic_timer_hz=1000000000 tsc=reliable".to_owned(),
        "random.trust_cpu=on dummy.numdummies=0 rcupdate.rcu_expedited=1".to_owned(),
    ];
    if let Some(khz) = machine.tsc_khz {
        words.push(format!("tsc_early_khz={khz}"));
    }
    if machine.accelerator == Accelerator::Tcg {
        // Software runs no instruction speculatively, so there is nothing to mitigate.
        words.push("mitigations=off".to_owned());
    }
    words.join(" ")
}

/// QEMU splits options at commas; a doubled one is a comma.
fn escape(path: &str) -> String {
    path.replace(',', ",,")
}

/// QEMU's control protocol: one JSON object a line.
#[derive(Debug)]
struct Qmp {
    reader: BufReader<UnixStream>,
    negotiated: bool,
}

impl Qmp {
    fn new(stream: UnixStream) -> Result<Self> {
        stream
            .set_read_timeout(Some(ANSWER_TIMEOUT))
            .map_err(|error| {
                Error::host("set up the monitor's control socket").with_source(error)
            })?;
        Ok(Self {
            reader: BufReader::new(stream),
            negotiated: false,
        })
    }

    fn execute(&mut self, command: &'static str) -> Result<()> {
        if !self.negotiated {
            self.send("qmp_capabilities")?;
            self.negotiated = true;
        }
        self.send(command)
    }

    fn send(&mut self, command: &'static str) -> Result<()> {
        let failed = |error: std::io::Error| {
            Error::channel(format!("tell the monitor to {command}")).with_source(error)
        };
        let request = format!("{{\"execute\":\"{command}\"}}\n");
        self.reader
            .get_mut()
            .write_all(request.as_bytes())
            .map_err(failed)?;
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line).map_err(failed)? == 0 {
                return Err(failed(std::io::ErrorKind::UnexpectedEof.into()));
            }
            // Between the greeting and events, only an answer begins like this.
            if line.starts_with("{\"return\"") {
                return Ok(());
            }
            if line.starts_with("{\"error\"") {
                return Err(Error::host(format!(
                    "the monitor refuses to {command}: {}",
                    line.trim()
                )));
            }
        }
    }
}

impl Control for Qmp {
    fn pause(&mut self) -> Result<()> {
        self.execute("stop")
    }

    fn resume(&mut self) -> Result<()> {
        self.execute("cont")
    }
}
