//! One micro VM, as the supervisor handles it.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bulkhead_guest::{Reply, Request, WORKLOAD};
use bulkhead_model::{
    ByteSize, Error, Exec, ExitStatus, Kind, Pause, Process, ProcessIo, ProcessSpec, Result,
    Sandbox, Stats, StatsSource, TerminalSize,
};
use rustix::fs::OFlags;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::agent::{Agent, Streams};
use crate::usage;

/// How long a reading waits for the guest's part of it.
const STATS_TIMEOUT: Duration = Duration::from_millis(500);

/// A micro VM that boots or runs.
pub(crate) struct MicroVm {
    agent: Arc<Agent>,
    io: Mutex<Option<ProcessIo>>,
    next_process: AtomicU32,
    memory_limit: ByteSize,
    is_paused: AtomicBool,
    /// As the guest last told it.
    process_count: AtomicU64,
    /// Files to remove with the sandbox.
    traces: Vec<PathBuf>,
}

impl MicroVm {
    pub(crate) fn new(
        agent: Agent,
        io: ProcessIo,
        memory_limit: ByteSize,
        traces: Vec<PathBuf>,
    ) -> Self {
        Self {
            agent: Arc::new(agent),
            io: Mutex::new(Some(io)),
            next_process: AtomicU32::new(WORKLOAD + 1),
            memory_limit,
            is_paused: AtomicBool::new(false),
            process_count: AtomicU64::new(1),
            traces,
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
        signal_process(&self.agent, WORKLOAD, signal)
    }

    fn resize(&self, size: TerminalSize) -> Result<()> {
        resize_process(&self.agent, WORKLOAD, size)
    }

    fn wait(&self) -> Result<ExitStatus> {
        Ok(self.agent.wait(WORKLOAD))
    }

    fn delete(&self) -> Result<()> {
        self.agent.kill();
        for path in &self.traces {
            let removed = match path.is_dir() {
                true => std::fs::remove_dir_all(path),
                false => std::fs::remove_file(path),
            };
            match removed {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(
                        Error::host(format!("remove {}", path.display())).with_source(error)
                    );
                }
                _ => {}
            }
        }
        Ok(())
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
}

impl StatsSource for MicroVm {
    /// What the host pays for the monitor; only the number of processes is the guest's word.
    fn read(&self) -> Result<Stats> {
        let mut stats = usage::of_process(self.agent.monitor_pid)
            .map_err(|error| Error::conflict("the micro VM is not running").with_source(error))?;
        if !self.is_paused.load(Ordering::Relaxed)
            && let Some(Reply::Stats { pids, .. }) =
                self.agent.request_within(Request::Stats {}, STATS_TIMEOUT)
        {
            self.process_count.store(pids, Ordering::Relaxed);
        }
        stats.pids = self.process_count.load(Ordering::Relaxed);
        stats.memory_limit = Some(self.memory_limit);
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
            number,
            pid,
        };
        Ok((Box::new(process), io))
    }
}

impl Pause for MicroVm {
    fn pause(&self) -> Result<()> {
        self.agent.control().pause()?;
        self.is_paused.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn resume(&self) -> Result<()> {
        self.agent.control().resume()?;
        self.is_paused.store(false, Ordering::Relaxed);
        Ok(())
    }
}

/// A process that was started beside the workload.
struct GuestProcess {
    agent: Arc<Agent>,
    number: u32,
    pid: u32,
}

impl Process for GuestProcess {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn signal(&self, signal: i32) -> Result<()> {
        signal_process(&self.agent, self.number, signal)
    }

    fn resize(&self, size: TerminalSize) -> Result<()> {
        resize_process(&self.agent, self.number, size)
    }

    fn wait(&self) -> Result<ExitStatus> {
        Ok(self.agent.wait(self.number))
    }
}

fn signal_process(agent: &Agent, process: u32, signal: i32) -> Result<()> {
    if agent.has_exited(process) {
        return Err(Error::conflict("the process has ended"));
    }
    agent
        .request(Request::Signal { process, signal }, None)
        .map(drop)
}

fn resize_process(agent: &Agent, process: u32, size: TerminalSize) -> Result<()> {
    agent
        .request(Request::Resize { process, size }, None)
        .map(drop)
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
