//! The supervisor's side of the agent's channel: one thread per guest that carries all streams,
//! matches replies to requests, keeps the console, and sees the monitor's end.
//!
//! ```text
//!  booting ── Configured ──▶ ready ── Start ──▶ running ── Exited ──▶ draining ──▶ ended
//!     └──────────────┴─────────────────┴── monitor died, kill, broken protocol ────▲
//! ```
//!
//! The thread also starts the monitor, which dies with it.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bulkhead_guest::frame::MAX_FROM_GUEST;
use bulkhead_guest::{
    Channel, Configuration, Event, Message, Reply, Request, Stream, VERSION, WORKLOAD,
};
use bulkhead_model::{Error, ExitStatus, Result};
use rustix::event::{EventfdFlags, eventfd};

use crate::console::Log;
use crate::monitor::{Control, Machine, Monitor, Origin, Running};

/// How long a monitor whose channel has closed may take to say why and to end.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A software-emulated guest on a machine that is overloaded still boots in this time.
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);

/// A guest that works answers within milliseconds; one that starts a program from a slow disk on a
/// busy machine may take longer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// The host's ends of a process's streams; none of them blocks.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// Written by the caller, read by us.
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

enum Command {
    Request {
        request: Request,
        /// Streams of the process that the request starts.
        streams: Option<(u32, Streams)>,
        answer: SyncSender<Result<Reply>>,
    },
    Kill,
}

#[derive(Default)]
struct State {
    /// `Some` once the guest is set up or has failed to be.
    configured: Option<std::result::Result<(), String>>,
    exits: BTreeMap<u32, ExitStatus>,
    /// Why no more can come from the guest.
    ended: Option<String>,
    /// Whether the guest died under its workload.
    died: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A state is never left half-changed: no change of it can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

/// The handle on a guest.
pub(crate) struct Agent {
    shared: Arc<Shared>,
    commands: Sender<Command>,
    wake: Arc<OwnedFd>,
    thread: Mutex<Option<JoinHandle<()>>>,
    control: Mutex<Box<dyn Control>>,
    pub monitor_pid: u32,
}

impl Agent {
    /// Starts the monitor and the guest's boot, and returns while it boots.
    pub(crate) fn boot(
        monitor: Arc<dyn Monitor>,
        machine: Machine,
        configuration: Configuration,
        streams: Streams,
        console_log: PathBuf,
    ) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let (commands, receiver) = channel();
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| Error::host("make an event descriptor").with_source(errno))?;
        let wake = Arc::new(wake);
        let (started, start) = sync_channel(1);
        let begun = Instant::now();
        let thread = {
            let (shared, wake) = (shared.clone(), wake.clone());
            std::thread::Builder::new()
                .name("micro-vm".to_owned())
                .spawn(move || {
                    let (running, control) = match start_guest(&*monitor, machine).map(split) {
                        Ok(parts) => parts,
                        Err(error) => {
                            let _ = started.send(Err(error));
                            return;
                        }
                    };
                    phase(begun, "monitor runs");
                    let _ = started.send(Ok((running.process.id(), control)));
                    Loop::new(running, begun, shared, receiver, wake, &console_log)
                        .run(configuration, streams);
                })
                .map_err(|error| Error::host("start a thread").with_source(error))?
        };
        let (monitor_pid, control) = start
            .recv()
            .map_err(|error| Error::host("start the monitor").with_source(error))??;
        Ok(Self {
            shared,
            commands,
            wake,
            thread: Mutex::new(Some(thread)),
            control: Mutex::new(control),
            monitor_pid,
        })
    }

    /// Waits until the guest is set up.
    pub(crate) fn wait_until_configured(&self) -> Result<()> {
        let mut state = self.shared.lock();
        loop {
            match (&state.configured, &state.ended) {
                (Some(Ok(())), None) => return Ok(()),
                (Some(Err(reason)), _) => return Err(Error::host(reason.clone())),
                (_, Some(reason)) => return Err(Error::channel(reason.clone())),
                (None, None) => {}
            }
            state = self
                .shared
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Asks the guest and waits for its answer, for as long as a guest that works may take.
    pub(crate) fn request(
        &self,
        request: Request,
        streams: Option<(u32, Streams)>,
    ) -> Result<Reply> {
        self.request_within(request, streams, ANSWER_TIMEOUT)
    }

    /// Asks the guest and waits for its answer for at most this time.
    ///
    /// # Errors
    /// The guest's own; `Conflict` if it has ended; `Channel` if it does not answer.
    pub(crate) fn request_within(
        &self,
        request: Request,
        streams: Option<(u32, Streams)>,
        timeout: Duration,
    ) -> Result<Reply> {
        let (answer, reply) = sync_channel(1);
        let command = Command::Request {
            request,
            streams,
            answer,
        };
        let gone = || {
            let reason = self.shared.lock().ended.clone();
            Error::conflict(reason.unwrap_or_else(|| "the micro VM is not running".to_owned()))
        };
        self.commands.send(command).map_err(|_| gone())?;
        self.wake();
        match reply.recv_timeout(timeout) {
            Ok(result) => result,
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
            Err(RecvTimeoutError::Timeout) => Err(Error::channel(format!(
                "the guest did not answer within {} s",
                timeout.as_secs()
            ))
            .retryable()),
        }
    }

    /// Waits until the process has ended; all have when the guest has.
    pub(crate) fn wait(&self, process: u32) -> ExitStatus {
        let mut state = self.shared.lock();
        loop {
            if let Some(status) = state.exits.get(&process) {
                return *status;
            }
            if state.ended.is_some() {
                return ExitStatus::KILLED;
            }
            state = self
                .shared
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Why the guest died under its workload; `None` if it did not.
    pub(crate) fn death(&self) -> Option<String> {
        let state = self.shared.lock();
        state.ended.clone().filter(|_| state.died)
    }

    pub(crate) fn has_exited(&self, process: u32) -> bool {
        let state = self.shared.lock();
        state.ended.is_some() || state.exits.contains_key(&process)
    }

    pub(crate) fn control(&self) -> MutexGuard<'_, Box<dyn Control>> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the monitor and waits for its end.
    pub(crate) fn kill(&self) {
        // The thread is gone where nobody receives, which is as well.
        let _ = self.commands.send(Command::Kill);
        self.wake();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }

    fn wake(&self) {
        // It fails only when the counter is full, and then the thread is awake.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts the guest; where it cannot go on from its template, it boots.
fn start_guest(monitor: &dyn Monitor, mut machine: Machine) -> Result<Running> {
    if let Origin::Template(_) = machine.origin {
        match monitor.start(&machine) {
            Ok(running) => return Ok(running),
            Err(error) => tracing::warn!(%error, "the guest boots instead"),
        }
        machine.origin = Origin::Boot;
    }
    monitor.start(&machine)
}

struct Parts {
    process: std::process::Child,
    agent: OwnedFd,
    console: OwnedFd,
    errors: OwnedFd,
}

fn split(running: Running) -> (Parts, Box<dyn Control>) {
    let parts = Parts {
        process: running.process,
        agent: running.agent,
        console: running.console,
        errors: running.errors,
    };
    (parts, running.control)
}

/// The thread's own state.
struct Loop {
    channel: Channel,
    process: std::process::Child,
    console: (Option<OwnedFd>, Log),
    errors: (Option<OwnedFd>, Log),
    shared: Arc<Shared>,
    commands: Receiver<Command>,
    wake: Arc<OwnedFd>,
    waiting: BTreeMap<u32, Waiting>,
    next_request: u32,
    /// When the monitor was asked for.
    begun: Instant,
    configured: bool,
    killed: bool,
}

/// For whoever wants to know where the time of a start goes.
fn phase(begun: Instant, what: &str) {
    let microseconds = begun.elapsed().as_micros() as u64;
    tracing::debug!(microseconds, "{what}");
}

struct Waiting {
    answer: SyncSender<Result<Reply>>,
    /// Sent once the process runs: the guest would drop what comes earlier.
    stdin: Option<(u32, OwnedFd)>,
    process: Option<u32>,
}

impl Loop {
    fn new(
        parts: Parts,
        begun: Instant,
        shared: Arc<Shared>,
        commands: Receiver<Command>,
        wake: Arc<OwnedFd>,
        console_log: &std::path::Path,
    ) -> Self {
        Self {
            channel: Channel::new(parts.agent, MAX_FROM_GUEST),
            process: parts.process,
            console: (Some(parts.console), Log::new(Some(console_log))),
            errors: (Some(parts.errors), Log::new(None)),
            shared,
            commands,
            wake,
            waiting: BTreeMap::new(),
            next_request: 0,
            begun,
            configured: false,
            killed: false,
        }
    }

    fn run(mut self, configuration: Configuration, mut streams: Streams) {
        self.add_sinks(WORKLOAD, &mut streams);
        let stdin = streams.stdin.take();
        self.channel.send(&Message::Hello { version: VERSION });
        self.channel.send(&Message::Configure {
            configuration: Box::new(configuration),
        });
        let result = self.serve(stdin);
        if result.is_err() {
            self.wait_for_monitors_end();
        }
        // Nothing that the monitor said before its end is lost.
        let _ = self.process.kill();
        let status = self.process.wait();
        while let Some(console) = &self.console.0
            && self.console.1.read_from(console)
            && is_readable(console)
        {}
        while let Some(errors) = &self.errors.0
            && self.errors.1.read_from(errors)
            && is_readable(errors)
        {}
        let died = result.is_err() && !self.shared.lock().exits.contains_key(&WORKLOAD);
        let reason = match result {
            Ok(()) => "the micro VM has ended".to_owned(),
            Err(reason) => self.describe_death(&reason, status),
        };
        self.console
            .1
            .append(format!("bulkhead: {reason}\n").as_bytes());
        self.shared.change(|state| {
            state.died = died;
            state.ended = Some(reason);
        });
    }

    /// Lets a monitor that is ending by itself end, so that its own words and status tell why.
    fn wait_for_monitors_end(&mut self) {
        let deadline = Instant::now() + LAST_WORDS;
        while Instant::now() < deadline && matches!(self.process.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn describe_death(
        &self,
        reason: &str,
        status: std::io::Result<std::process::ExitStatus>,
    ) -> String {
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        tracing::warn!(reason, status, "a micro VM died");
        let mut words = vec![format!("the micro VM died: {reason} (monitor: {status})")];
        words.extend([self.errors.1.last_words(), self.console.1.last_words()]);
        words.retain(|words| !words.is_empty());
        words.join(": ")
    }

    /// Runs until the workload has ended and all its output was passed on, or until a kill.
    fn serve(&mut self, mut stdin: Option<OwnedFd>) -> std::result::Result<(), String> {
        let deadline = Instant::now() + BOOT_TIMEOUT;
        while !self.killed && !self.is_drained() {
            let timeout =
                (!self.configured).then(|| deadline.saturating_duration_since(Instant::now()));
            if timeout.is_some_and(|timeout| timeout.is_zero()) {
                return Err("the guest was not ready in time".to_owned());
            }
            let mut watched = vec![self.wake.as_fd()];
            watched.extend(self.console.0.as_ref().map(|fd| fd.as_fd()));
            let errors_place = watched.len();
            watched.extend(self.errors.0.as_ref().map(|fd| fd.as_fd()));
            let events = self
                .channel
                .turn(&watched, timeout)
                .map_err(|error| error.to_string())?;
            for event in events {
                match event {
                    Event::Message(message) => self.handle(message)?,
                    Event::Readable(0) => self.take_commands(&mut stdin),
                    Event::Readable(place) => {
                        let (descriptor, log) = match place == errors_place {
                            true => &mut self.errors,
                            false => &mut self.console,
                        };
                        if !descriptor.as_ref().is_some_and(|fd| log.read_from(fd)) {
                            *descriptor = None;
                        }
                    }
                    Event::SourceEnded(_) | Event::SinkEnded(_) => {}
                }
            }
        }
        Ok(())
    }

    fn is_drained(&self) -> bool {
        self.channel.sink_count() == 0 && self.shared.lock().exits.contains_key(&WORKLOAD)
    }

    fn handle(&mut self, message: Message) -> std::result::Result<(), String> {
        match message {
            // One that goes on from a template has said it then.
            Message::Hello { version } if version == VERSION => {
                phase(self.begun, "agent ready");
            }
            Message::Hello { version } => {
                return Err(format!("the agent speaks version {version}, not {VERSION}"));
            }
            Message::Configured { reply } => {
                self.configured = true;
                phase(self.begun, "guest set up");
                let result = reply.into_result().map(drop);
                let result = result.map_err(|error| error.to_string());
                self.shared.change(|state| state.configured = Some(result));
            }
            Message::Reply { id, reply } => self.answer(id, reply)?,
            Message::Exited {
                process,
                code,
                oom_killed,
            } => {
                self.channel.remove_source(Stream::stdin(process));
                // Only of what was started: a guest must not fill our memory with numbers.
                if process < self.next_process() {
                    let status = ExitStatus { code, oom_killed };
                    self.shared.change(|state| {
                        state.exits.entry(process).or_insert(status);
                    });
                }
            }
            other => {
                return Err(format!(
                    "the guest sent what only the host sends: {other:?}"
                ));
            }
        }
        Ok(())
    }

    /// Process numbers are handed out by the sandbox in step with requests.
    fn next_process(&self) -> u32 {
        self.next_request.saturating_add(2)
    }

    fn answer(&mut self, id: u32, reply: Reply) -> std::result::Result<(), String> {
        let Some(waiting) = self.waiting.remove(&id) else {
            return Err("the guest answered what nobody asked".to_owned());
        };
        let result = reply.into_result();
        match (&result, waiting.process) {
            (Ok(_), process) => {
                if process == Some(WORKLOAD) {
                    phase(self.begun, "workload runs");
                }
                if let Some((process, stdin)) = waiting.stdin {
                    self.channel.add_source(Stream::stdin(process), stdin);
                }
            }
            (Err(_), Some(process)) => {
                self.channel.remove_sink(Stream::stdout(process));
                self.channel.remove_sink(Stream::stderr(process));
            }
            (Err(_), None) => {}
        }
        // The caller may have gone away.
        let _ = waiting.answer.send(result);
        Ok(())
    }

    fn take_commands(&mut self, stdin: &mut Option<OwnedFd>) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&*self.wake, &mut count);
        while let Ok(command) = self.commands.try_recv() {
            let Command::Request {
                request,
                streams,
                answer,
            } = command
            else {
                self.killed = true;
                return;
            };
            let id = self.next_request;
            self.next_request += 1;
            let mut waiting = Waiting {
                answer,
                stdin: None,
                process: None,
            };
            if let Request::Start {} = request {
                waiting.stdin = stdin.take().map(|stdin| (WORKLOAD, stdin));
                waiting.process = Some(WORKLOAD);
            }
            if let Some((process, mut streams)) = streams {
                self.add_sinks(process, &mut streams);
                waiting.stdin = streams.stdin.map(|stdin| (process, stdin));
                waiting.process = Some(process);
            }
            self.channel.send(&Message::Request { id, request });
            self.waiting.insert(id, waiting);
        }
    }

    fn add_sinks(&mut self, process: u32, streams: &mut Streams) {
        for (stream, descriptor) in [
            (Stream::stdout(process), streams.stdout.take()),
            (Stream::stderr(process), streams.stderr.take()),
        ] {
            if let Some(descriptor) = descriptor {
                self.channel.add_sink(stream, descriptor);
            }
        }
    }
}

fn is_readable(descriptor: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut descriptors = [PollFd::new(descriptor, PollFlags::IN)];
    poll(&mut descriptors, Some(&Timespec::default())).is_ok_and(|count| count > 0)
}
