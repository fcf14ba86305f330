//! One micro VM, as the supervisor handles it.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bulkhead_guest::{Reply, Request, WORKLOAD};
use bulkhead_model::{
    ByteSize, Error, ErrorKind, Exec, ExitStatus, Kind, Pause, Process, ProcessIo, ProcessSpec,
    Resources, Result, Sandbox, Stats, StatsSource, TerminalSize, Update,
};
use rustix::fs::OFlags;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::agent::{Agent, Streams};
use crate::usage;

/// How long a reading waits for the guest's part of it.
const STATS_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a guest has to kill its workload before it is killed itself.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

const SIGKILL: i32 = 9;

/// The numbers that Linux gives signals.
const SIGNALS: std::ops::RangeInclusive<i32> = 1..=64;

/// A micro VM that boots or runs.
pub(crate) struct MicroVm {
    agent: Arc<Agent>,
    io: Mutex<Option<ProcessIo>>,
    next_process: AtomicU32,
    /// Bytes that the guest was started with, for its workload.
    memory: ByteSize,
    /// Bytes that the workload may use now.
    memory_limit: AtomicU64,
    is_paused: Arc<AtomicBool>,
    /// As the guest last told it.
    process_count: AtomicU64,
    /// The directory of bound files, to remove with the sandbox.
    staging: PathBuf,
}

impl MicroVm {
    pub(crate) fn new(agent: Agent, io: ProcessIo, memory: ByteSize, staging: PathBuf) -> Self {
        Self {
            agent: Arc::new(agent),
            io: Mutex::new(Some(io)),
            next_process: AtomicU32::new(WORKLOAD + 1),
            memory,
            memory_limit: AtomicU64::new(memory.bytes()),
            is_paused: Arc::default(),
            process_count: AtomicU64::new(1),
            staging,
        }
    }
}

impl Sandbox for MicroVm {
    fn kind(&self) -> Kind {
        Kind::Microvm
    }

    fn pid(&self) -> u32 {
        self.agent.monitor_pid
    }

    fn start(&self) -> Result<()> {
        self.agent.wait_until_configured()?;
        self.agent.request(Request::Start {}, None).map(drop)
    }

    fn take_io(&self) -> Option<ProcessIo> {
        self.io
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    fn signal(&self, signal: i32) -> Result<()> {
        if signal == SIGKILL && !self.agent.has_exited(WORKLOAD) {
            return self.kill_workload();
        }
        signal_process(&self.agent, &self.is_paused, WORKLOAD, signal)
    }

    fn resize(&self, size: TerminalSize) -> Result<()> {
        resize_process(&self.agent, &self.is_paused, WORKLOAD, size)
    }

    fn wait(&self) -> Result<ExitStatus> {
        Ok(self.agent.wait(WORKLOAD))
    }

    fn death(&self) -> Option<String> {
        self.agent.death()
    }

    fn delete(&self) -> Result<()> {
        self.agent.kill();
        match std::fs::remove_dir_all(&self.staging) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                let what = format!("remove {}", self.staging.display());
                Err(Error::host(what).with_source(error))
            }
            _ => Ok(()),
        }
    }

    fn exec(&self) -> Option<&dyn Exec> {
        Some(self)
    }

    fn stats(&self) -> Option<&dyn StatsSource> {
        Some(self)
    }

    fn pause(&self) -> Option<&dyn Pause> {
        Some(self)
    }

    fn update(&self) -> Option<&dyn Update> {
        Some(self)
    }
}

impl MicroVm {
    /// Nothing that a guest does or omits saves its workload from this.
    fn kill_workload(&self) -> Result<()> {
        if self.is_paused.load(Ordering::Relaxed) {
            self.resume()?;
        }
        let request = Request::Signal {
            process: WORKLOAD,
            signal: SIGKILL,
        };
        match self.agent.request_within(request, None, KILL_TIMEOUT) {
            Err(error) if error.kind() == ErrorKind::Channel => {
                tracing::warn!(%error, "a guest is killed with its workload");
                self.agent.kill();
                Ok(())
            }
            result => result.map(drop),
        }
    }
}

impl StatsSource for MicroVm {
    /// What the host pays for the monitor; only the number of processes is the guest's word.
    fn read(&self) -> Result<Stats> {
        let mut stats = usage::of_process(self.agent.monitor_pid)
            .map_err(|error| Error::conflict("the micro VM is not running").with_source(error))?;
        if !self.is_paused.load(Ordering::Relaxed)
            && let Ok(Reply::Stats { pids, .. }) =
                self.agent
                    .request_within(Request::Stats {}, None, STATS_TIMEOUT)
        {
            self.process_count.store(pids, Ordering::Relaxed);
        }
        stats.pids = self.process_count.load(Ordering::Relaxed);
        let limit = self.memory_limit.load(Ordering::Relaxed);
        stats.memory_limit = Some(ByteSize(limit));
        Ok(stats)
    }
}

impl Exec for MicroVm {
    fn exec(&self, process: &ProcessSpec) -> Result<(Box<dyn Process>, ProcessIo)> {
        if self.agent.has_exited(WORKLOAD) {
            return Err(Error::conflict(
                "the sandbox is not running: its workload has ended",
            ));
        }
        refuse_if_paused(&self.is_paused)?;
        let (streams, io) = make_streams(process)?;
        let number = self.next_process.fetch_add(1, Ordering::Relaxed);
        let request = Request::Exec {
            process: number,
            spec: process.clone(),
        };
        let pid = match self.agent.request(request, Some((number, streams)))? {
            Reply::Started { pid } => pid,
            other => return Err(unexpected(&other)),
        };
        let process = GuestProcess {
            agent: self.agent.clone(),
            is_paused: self.is_paused.clone(),
            number,
            pid,
        };
        Ok((Box::new(process), io))
    }
}

impl Pause for MicroVm {
    fn pause(&self) -> Result<()> {
        let mut control = self.agent.control();
        refuse_if_paused(&self.is_paused)?;
        control.pause()?;
        self.is_paused.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn resume(&self) -> Result<()> {
        let mut control = self.agent.control();
        if !self.is_paused.load(Ordering::Relaxed) {
            return Err(Error::conflict("the sandbox is not paused"));
        }
        control.resume()?;
        self.is_paused.store(false, Ordering::Relaxed);
        Ok(())
    }
}

impl Update for MicroVm {
    /// # Errors
    /// `Unsupported` for more memory than the guest was started with.
    fn update(&self, resources: &Resources) -> Result<()> {
        refuse_if_paused(&self.is_paused)?;
        if let Some(memory) = resources.memory
            && memory > self.memory
        {
            return Err(Error::unsupported(format!(
                "a running micro VM's memory cannot grow above the {} that it was started with: \
                 stop it and start it anew",
                self.memory
            )));
        }
        let request = Request::Limit {
            memory: resources.memory.map(ByteSize::bytes),
            cpu_millis: resources.cpu_millis,
            pids: resources.pids,
        };
        self.agent.request(request, None)?;
        if let Some(memory) = resources.memory {
            self.memory_limit.store(memory.bytes(), Ordering::Relaxed);
        }
        Ok(())
    }
}

/// A process that was started beside the workload.
struct GuestProcess {
    agent: Arc<Agent>,
    is_paused: Arc<AtomicBool>,
    number: u32,
    pid: u32,
}

impl Process for GuestProcess {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn signal(&self, signal: i32) -> Result<()> {
        signal_process(&self.agent, &self.is_paused, self.number, signal)
    }

    fn resize(&self, size: TerminalSize) -> Result<()> {
        resize_process(&self.agent, &self.is_paused, self.number, size)
    }

    fn wait(&self) -> Result<ExitStatus> {
        Ok(self.agent.wait(self.number))
    }
}

fn signal_process(agent: &Agent, is_paused: &AtomicBool, process: u32, signal: i32) -> Result<()> {
    if !SIGNALS.contains(&signal) {
        return Err(Error::invalid(format!("there is no signal {signal}")));
    }
    if agent.has_exited(process) {
        return Err(Error::conflict("the process has ended"));
    }
    refuse_if_paused(is_paused)?;
    agent
        .request(Request::Signal { process, signal }, None)
        .map(drop)
}

fn resize_process(
    agent: &Agent,
    is_paused: &AtomicBool,
    process: u32,
    size: TerminalSize,
) -> Result<()> {
    refuse_if_paused(is_paused)?;
    agent
        .request(Request::Resize { process, size }, None)
        .map(drop)
}

/// A guest that stands still answers nothing.
fn refuse_if_paused(is_paused: &AtomicBool) -> Result<()> {
    if is_paused.load(Ordering::Relaxed) {
        return Err(Error::conflict("the sandbox is paused: resume it first"));
    }
    Ok(())
}

fn unexpected(reply: &Reply) -> Error {
    Error::channel(format!(
        "the guest gave an answer of another kind: {reply:?}"
    ))
}

/// Makes the pipes between the caller and the channel.
pub(crate) fn make_streams(process: &ProcessSpec) -> Result<(Streams, ProcessIo)> {
    let failed =
        |errno: rustix::io::Errno| Error::host("make a process's streams").with_source(errno);
    // Only our end must not block; the two ends of a pipe have flags of their own.
    let nonblocking = |descriptor: OwnedFd| -> Result<OwnedFd> {
        rustix::fs::fcntl_setfl(&descriptor, OFlags::NONBLOCK).map_err(failed)?;
        Ok(descriptor)
    };
    let mut streams = Streams::default();
    let (stdout, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
    streams.stdout = Some(nonblocking(writer)?);
    let mut io = ProcessIo {
        stdin: None,
        stdout: File::from(stdout),
        stderr: None,
    };
    if process.terminal.is_none() {
        let (stderr, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
        streams.stderr = Some(nonblocking(writer)?);
        io.stderr = Some(File::from(stderr));
    }
    if process.stdin {
        let (reader, stdin) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
        streams.stdin = Some(nonblocking(reader)?);
        io.stdin = Some(File::from(stdin));
    }
    Ok((streams, io))
}
