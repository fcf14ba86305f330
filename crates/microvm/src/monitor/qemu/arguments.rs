//! QEMU's command line for a guest.

use std::os::fd::OwnedFd;

use bulkhead_guest::{OWN_PLACES, PLACES, PORT_NAME};
use bulkhead_model::{Error, Result};

use crate::launch::text;
use crate::monitor::{Accelerator, Disk, Interface, Machine, Origin, Share};

/// Without ACPI the machine has [`PLACES`] of virtio devices.
///
/// Where the registers of the first place are, how many bytes each place has, and the first
/// interrupt (QEMU's `include/hw/i386/microvm.h`).
const FIRST_PLACE: (u64, u64, usize) = (0xfeb0_0000, 512, 5);

/// The image and the sandbox's own.
const DISKS: usize = 2;

/// QEMU's command line, with the descriptors that it names.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    pub(super) list: Vec<String>,
    pub(super) descriptors: Vec<OwnedFd>,
    /// Places for devices that are taken.
    places: usize,
}

impl Arguments {
    fn add(&mut self, option: &str, value: impl Into<String>) {
        self.list.extend([option.to_owned(), value.into()]);
    }

    /// Adds a device at the next free place.
    fn device(&mut self, kind: &str, properties: &str) -> Result<()> {
        if self.places == PLACES {
            let needed = OWN_PLACES + DISKS;
            return Err(Error::unsupported(format!(
                "a micro VM has room for {PLACES} devices and needs {needed} of them itself: give the \
                 sandbox fewer mounts or networks, or use the runtime 'container'"
            )));
        }
        let place = self.places;
        self.places += 1;
        self.add(
            "-device",
            format!("{kind}-device,bus=virtio-mmio-bus.{place}{properties}"),
        );
        Ok(())
    }

    /// What stands for the descriptor's number, which only the launcher knows.
    fn pass(&mut self, descriptor: OwnedFd) -> String {
        self.descriptors.push(descriptor);
        format!("{{{}}}", self.descriptors.len() - 1)
    }

    /// Processors, memory, and what the guest begins with.
    pub(super) fn machine(&mut self, machine: &Machine) -> Result<()> {
        let (accelerator, cpu) = match machine.accelerator {
            Accelerator::Kvm => ("kvm", "host"),
            // Translated code is kept in at most so many MiB; a kernel and a database fit.
            Accelerator::Tcg => ("tcg,thread=multi,tb-size=64", "max"),
        };
        self.list
            .extend(["-nodefaults", "-no-user-config", "-no-reboot"].map(str::to_owned));
        // PIT, PIC and RTC stay on: without them the kernel cannot calibrate its clocks under TCG
        // and hangs.
        let mut kind = "microvm,acpi=off,x-option-roms=off,graphics=off".to_owned();
        self.add("-display", "none");
        // A guest that breaks into the monitor finds no way to start programs or gain rights.
        self.add(
            "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        );
        self.add("-accel", accelerator);
        self.add("-cpu", cpu);
        self.add("-smp", machine.cpus.to_string());
        self.add("-m", format!("{}M", machine.memory_mib));
        match &machine.origin {
            Origin::Boot => {}
            Origin::Prototype(files) => {
                kind.push_str(",memory-backend=memory,auto-kernel-cmdline=off");
                self.memory_file(machine, &files.memory, true)?;
            }
            Origin::Template(files) => {
                kind.push_str(",memory-backend=memory");
                self.memory_file(machine, &files.memory, false)?;
                self.add("-incoming", "defer");
            }
        }
        self.add("-machine", kind);
        if !matches!(machine.origin, Origin::Template(_)) {
            self.add("-kernel", text(&machine.kernel)?);
            self.add("-initrd", text(&machine.initramfs)?);
            self.add("-append", command_line(machine));
        }
        Ok(())
    }

    /// The guest's memory is a file, whose pages it changes (`is_shared`) or copies when it changes
    /// them.
    fn memory_file(
        &mut self,
        machine: &Machine,
        file: &std::path::Path,
        is_shared: bool,
    ) -> Result<()> {
        let (file, size) = (escape(&text(file)?), machine.memory_mib);
        let share = if is_shared { "on" } else { "off" };
        self.add(
            "-object",
            format!("memory-backend-file,id=memory,size={size}M,mem-path={file},share={share}"),
        );
        Ok(())
    }

    /// The devices that a template has: they are at the same places in all guests.
    pub(super) fn own_devices(
        &mut self,
        agent: OwnedFd,
        console: OwnedFd,
        control: OwnedFd,
    ) -> Result<()> {
        for (name, descriptor) in [("agent", agent), ("console", console), ("control", control)] {
            let number = self.pass(descriptor);
            self.add("-chardev", format!("socket,id={name},fd={number}"));
        }
        self.add("-serial", "chardev:console");
        self.add("-mon", "chardev=control,mode=control");
        self.device("virtio-serial", "")?;
        self.add(
            "-device",
            format!("virtserialport,chardev=agent,name={PORT_NAME}"),
        );
        self.device("virtio-rng", "")
    }

    pub(super) fn disk(&mut self, disk: &Disk) -> Result<()> {
        let (serial, path) = (disk.serial, escape(&text(&disk.path)?));
        // The image is shared by many guests, and a disk has one sandbox: a lock adds nothing.
        let mode = if disk.read_only {
            "readonly=on"
        } else {
            "discard=unmap"
        };
        self.add(
            "-drive",
            format!("id={serial},if=none,format=raw,file.locking=off,{mode},file={path}"),
        );
        self.device("virtio-blk", &format!(",drive={serial},serial={serial}"))
    }

    pub(super) fn share(&mut self, share: &Share) -> Result<()> {
        let (tag, path) = (&share.tag, escape(&text(&share.path)?));
        let read_only = if share.read_only { "on" } else { "off" };
        self.add(
            "-fsdev",
            format!(
                "local,id={tag},path={path},security_model=passthrough,multidevs=remap,readonly={read_only}"
            ),
        );
        self.device("virtio-9p", &format!(",fsdev={tag},mount_tag={tag}"))
    }

    pub(super) fn interface(&mut self, index: usize, interface: &Interface) -> Result<()> {
        let [a, b, c, d, e, f] = interface.mac;
        let tap = interface.tap.try_clone().map_err(|error| {
            Error::host("pass a network device to the monitor").with_source(error)
        })?;
        let tap = self.pass(tap);
        self.add("-netdev", format!("tap,id=net{index},fd={tap}"));
        self.device(
            "virtio-net",
            &format!(",netdev=net{index},mac={a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"),
        )
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
    if let Origin::Prototype(_) = machine.origin {
        // QEMU itself would only name the places that are taken.
        let (first, size, interrupt) = FIRST_PLACE;
        for place in 0..PLACES {
            let (address, interrupt) = (first + size * place as u64, interrupt + place);
            words.push(format!(
                "virtio_mmio.device={size}@{address:#x}:{interrupt}"
            ));
        }
    }
    words.join(" ")
}

/// QEMU splits options at commas; a doubled one is a comma.
fn escape(path: &str) -> String {
    path.replace(',', ",,")
}
