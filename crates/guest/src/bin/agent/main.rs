//! The guest agent: PID 1 of every micro VM.
//!
//! It sets the guest up as it is told over its channel, starts processes, carries their streams
//! and reports their ends. One thread, one loop: [`Channel::turn`] waits for everything at once.
//!
//! Invariant: nothing about how the guest runs is read from a disk that the workload can write.

mod boot;
mod cgroup;
mod credentials;
mod init;
mod network;
mod rootfs;
mod spawn;
mod sys;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use bulkhead_guest::channel::ChannelError;
use bulkhead_guest::frame::MAX_FROM_HOST;
use bulkhead_guest::{
    Channel, Configuration, Event, Message, Reply, Request, Stream, VERSION, WORKLOAD,
};
use bulkhead_model::{Error, ProcessSpec, Result};
use rustix::process::{Pid, WaitOptions};

use crate::spawn::Spawned;

fn main() {
    let error = match run() {
        Ok(()) => "the channel ended".to_owned(),
        Err(error) => error.to_string(),
    };
    // This is the guest's console, which the supervisor keeps for the user.
    eprintln!("bulkhead-agent: {error}");
    sys::power_off();
}

fn run() -> std::io::Result<()> {
    // What needs no configuration is done before the hello: guests that go on from a template have
    // it behind them.
    boot::mount_system()?;
    network::prepare()?;
    cgroup::prepare()?;
    rootfs::prepare_devices()?;
    let signals = sys::child_signal()?;
    std::fs::write("/proc/self/oom_score_adj", "-1000")?;
    let channel = Channel::new(boot::open_channel()?, MAX_FROM_HOST);
    let mut agent = Agent {
        channel,
        configuration: None,
        processes: BTreeMap::new(),
        started: false,
        workload: None,
    };
    agent.channel.send(&Message::Hello { version: VERSION });
    loop {
        let events = match agent.channel.turn(&[signals.as_fd()], None) {
            Ok(events) => events,
            Err(ChannelError::Closed) => return Ok(()),
            Err(error) => return Err(std::io::Error::other(error)),
        };
        for event in events {
            match event {
                Event::Message(message) => agent.handle(message)?,
                Event::Readable(_) => agent.reap(&signals),
                Event::SourceEnded(_) | Event::SinkEnded(_) => {}
            }
        }
    }
}

struct Running {
    pid: Pid,
    terminal: Option<OwnedFd>,
}

struct Agent {
    channel: Channel,
    configuration: Option<Box<Configuration>>,
    /// By the number that the supervisor gave them.
    processes: BTreeMap<u32, Running>,
    started: bool,
    /// `Some` while the workload runs.
    workload: Option<Pid>,
}

impl Agent {
    fn handle(&mut self, message: Message) -> std::io::Result<()> {
        match message {
            Message::Hello { version } if version == VERSION => {}
            Message::Hello { version } => {
                return Err(std::io::Error::other(format!(
                    "the supervisor speaks version {version}, this agent {VERSION}"
                )));
            }
            Message::Configure { configuration } => {
                let result = configure(&configuration).map(|()| Reply::Done {});
                if result.is_ok() {
                    self.configuration = Some(configuration);
                }
                let reply = answer(result);
                self.channel.send(&Message::Configured { reply });
            }
            Message::Request { id, request } => {
                let reply = answer(self.carry_out(request));
                self.channel.send(&Message::Reply { id, reply });
            }
            other => {
                return Err(std::io::Error::other(format!(
                    "unexpected message {other:?}"
                )));
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, request: Request) -> Result<Reply> {
        let not_configured = || Error::conflict("the guest is not configured");
        match request {
            Request::Start {} => {
                if self.started {
                    return Err(Error::conflict("the workload has been started already"));
                }
                let configuration = self.configuration.as_ref().ok_or_else(not_configured)?;
                let spawned = spawn::spawn_workload(configuration)?;
                self.started = true;
                self.workload = Some(spawned.pid);
                Ok(self.add(WORKLOAD, spawned))
            }
            Request::Exec { process, spec } => {
                let spawned = self.exec(&spec)?;
                Ok(self.add(process, spawned))
            }
            Request::Signal { process, signal } => {
                let running = self.running(process)?;
                sys::kill(running.pid, signal).map_err(|error| {
                    Error::conflict(format!("send signal {signal}")).with_source(error)
                })?;
                Ok(Reply::Done {})
            }
            Request::Resize { process, size } => {
                let running = self.running(process)?;
                let terminal = running
                    .terminal
                    .as_ref()
                    .ok_or_else(|| Error::conflict("the process has no terminal"))?;
                spawn::resize(terminal, size)
                    .map_err(|errno| Error::host("resize the terminal").with_source(errno))?;
                Ok(Reply::Done {})
            }
            Request::Stats {} => Ok(cgroup::stats()),
            Request::Limit {
                memory,
                cpu_millis,
                pids,
            } => cgroup::limit(memory, cpu_millis, pids).map(|()| Reply::Done {}),
        }
    }

    fn exec(&self, spec: &ProcessSpec) -> Result<Spawned> {
        let ended = || Error::conflict("the sandbox is not running: its workload has ended");
        let configuration = self.configuration.as_ref().ok_or_else(ended)?;
        spawn::spawn_beside(spec, configuration, self.workload.ok_or_else(ended)?)
    }

    fn running(&self, process: u32) -> Result<&Running> {
        self.processes
            .get(&process)
            .ok_or_else(|| Error::conflict("the process has ended"))
    }

    fn add(&mut self, process: u32, spawned: Spawned) -> Reply {
        let pid = inner_pid(spawned.pid);
        if let Some(stdin) = spawned.stdin {
            self.channel.add_sink(Stream::stdin(process), stdin);
        }
        self.channel
            .add_source(Stream::stdout(process), spawned.stdout);
        if let Some(stderr) = spawned.stderr {
            self.channel.add_source(Stream::stderr(process), stderr);
        }
        let running = Running {
            pid: spawned.pid,
            terminal: spawned.terminal,
        };
        self.processes.insert(process, running);
        Reply::Started { pid }
    }

    /// Reports the processes that have ended, and forgets the orphans among them.
    fn reap(&mut self, signals: &OwnedFd) {
        // One reading stands for any number of children; what it says is of no interest.
        let mut information = [0; 128];
        while rustix::io::read(signals, &mut information).is_ok() {}
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let found = self
                .processes
                .iter()
                .find(|(_, running)| running.pid == pid);
            let Some((&process, _)) = found else { continue };
            self.processes.remove(&process);
            self.channel.remove_sink(Stream::stdin(process));
            let is_workload = self.workload == Some(pid);
            if is_workload {
                // All that it wrote is on the disks before anybody hears of its end.
                rustix::fs::sync();
                self.workload = None;
            }
            self.channel.send(&Message::Exited {
                process,
                code: init::exit_code(status),
                oom_killed: is_workload && cgroup::was_oom_killed(),
            });
        }
    }
}

fn answer(result: Result<Reply>) -> Reply {
    result.unwrap_or_else(|error| Reply::failed(&error))
}

/// Sets the guest up, up to the point where the workload can start.
fn configure(configuration: &Configuration) -> Result<()> {
    let failed =
        |what: &str, error: std::io::Error| Error::host(what.to_owned()).with_source(error);
    sys::seed_random(&configuration.random_seed)
        .map_err(|error| failed("seed the guest's random numbers", error))?;
    boot::find_devices().map_err(|error| failed("find the guest's devices", error))?;
    sys::set_clock(configuration.unix_time_nanoseconds)
        .map_err(|error| failed("set the guest's clock", error))?;
    boot::mount_root().map_err(|error| failed("mount the root in the guest", error))?;
    sys::set_host_name(&configuration.hostname)
        .map_err(|error| failed("set the guest's host name", error))?;
    network::configure(&configuration.endpoints)?;
    cgroup::limit(
        configuration.memory_limit,
        configuration.cpu_millis,
        configuration.pids_limit,
    )?;
    rootfs::prepare(configuration)?;
    // A guest's memory is what its workload asked for; a program that reserves more than it uses
    // (a JVM, Go, a fork of a large process) gets it, as it would in a container of a large host.
    let defaults = [
        ("vm.overcommit_memory", "1"),
        ("net.ipv4.ip_unprivileged_port_start", "0"),
        ("net.ipv4.ping_group_range", "0 2147483647"),
    ];
    let given = configuration.sysctls.iter();
    let given = given.map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in defaults.into_iter().chain(given) {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        std::fs::write(&path, value)
            .map_err(|error| failed(&format!("set the sysctl {name}"), error))?;
    }
    Ok(())
}

/// The process id as the sandbox itself sees it.
fn inner_pid(pid: Pid) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()));
    status
        .unwrap_or_default()
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))
        .and_then(|pids| pids.split_whitespace().last()?.parse().ok())
        .unwrap_or_default()
}
