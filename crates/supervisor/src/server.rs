//! Answers the daemon until the workload has ended.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use bulkhead_model::{
    Ending, Error, ExitStatus, Process, ProcessIo, ProcessSpec, Result, TerminalSize,
};

use crate::Supervised;
use crate::protocol::{
    Channel, FRAME_LIMIT, Reply, Request, read_frame, read_line, write_frame, write_line,
};
use crate::status::Status;

/// How long a sandbox waits to be started.
const START_PATIENCE: Duration = Duration::from_secs(60);
const SIGKILL: i32 = 9;

/// How the workload ended, and who waits to hear of it.
pub(crate) struct Exit {
    outcome: Outcome,
    waiters: Arc<Waiters>,
}

#[derive(Clone)]
enum Outcome {
    /// The workload was never started.
    Discarded,
    Exited {
        started_at: SystemTime,
        finished_at: SystemTime,
        ending: Ending,
    },
}

#[derive(Default)]
struct Waiters {
    state: Mutex<WaitState>,
}

#[derive(Default)]
struct WaitState {
    streams: Vec<UnixStream>,
    announced: Option<Ending>,
}

impl Exit {
    pub(crate) fn ending(&self) -> Ending {
        match &self.outcome {
            Outcome::Exited { ending, .. } => ending.clone(),
            Outcome::Discarded => ExitStatus::KILLED.into(),
        }
    }

    /// What the status file says; `None` for a workload that never ran.
    pub(crate) fn status(&self) -> Option<Status> {
        match &self.outcome {
            Outcome::Exited {
                started_at,
                finished_at,
                ending,
            } => Some(Status::Exited {
                started_at: *started_at,
                finished_at: *finished_at,
                exit: ending.exit,
                error: ending.error.clone(),
            }),
            Outcome::Discarded => None,
        }
    }

    /// Answers everybody who waits, now and later.
    pub(crate) fn announce(&self) {
        let ending = self.ending();
        let mut state = lock(&self.waiters.state);
        state.announced = Some(ending.clone());
        for mut stream in state.streams.drain(..) {
            answer(&mut stream, &Reply::Exited(ending.clone()));
        }
    }
}

struct Server {
    supervised: Arc<Supervised>,
    waiters: Arc<Waiters>,
    ended: Sender<Outcome>,
    started: Mutex<bool>,
}

/// Serves until the workload has ended or the sandbox is discarded.
pub(crate) fn serve(supervised: &Arc<Supervised>) -> Result<Exit> {
    let (ended, outcome) = channel();
    let waiters = Arc::new(Waiters::default());
    let server = Arc::new(Server {
        supervised: Arc::clone(supervised),
        waiters: Arc::clone(&waiters),
        ended,
        started: Mutex::new(false),
    });
    let accepting = Arc::clone(&server);
    let socket = supervised
        .socket
        .try_clone()
        .map_err(|error| Error::host("duplicate the control socket").with_source(error))?;
    std::thread::spawn(move || {
        for stream in socket.incoming() {
            match stream {
                Ok(stream) => {
                    let server = Arc::clone(&accepting);
                    std::thread::spawn(move || server.answer_one(stream));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    std::thread::sleep(std::time::Duration::from_millis(50));
                }
            }
        }
    });
    let closed = || Error::host("the control socket is closed");
    let outcome = match outcome.recv_timeout(START_PATIENCE) {
        Ok(outcome) => outcome,
        Err(RecvTimeoutError::Disconnected) => return Err(closed()),
        Err(RecvTimeoutError::Timeout) => {
            // Whoever made it may have died before it told us to start, and nobody else will.
            server.discard_unstarted();
            outcome.recv().map_err(|_| closed())?
        }
    };
    Ok(Exit { outcome, waiters })
}

impl Server {
    fn answer_one(self: Arc<Self>, mut stream: UnixStream) {
        let request = read_line(&mut stream).and_then(|line| {
            serde_json::from_slice::<Request>(&line)
                .map_err(|error| Error::channel("unknown request").with_source(error))
        });
        let done = match request {
            Ok(Request::Start) => self.start(),
            Ok(Request::Signal(signal)) => self.supervised.sandbox.signal(signal),
            Ok(Request::Resize(size)) => self.supervised.sandbox.resize(size),
            Ok(Request::Pause) => self.with_pause(|pause| pause.pause()),
            Ok(Request::Resume) => self.with_pause(|pause| pause.resume()),
            Ok(Request::Update(resources)) => match self.supervised.sandbox.update() {
                Some(update) => update.update(&resources),
                None => Err(Error::unsupported(
                    "the limits of this kind of sandbox are fixed",
                )),
            },
            Ok(Request::Stats) => {
                let reply = match self.supervised.stats() {
                    Ok(stats) => Reply::Stats(stats),
                    Err(error) => Reply::Failed((&error).into()),
                };
                return answer(&mut stream, &reply);
            }
            Ok(Request::Wait) => return self.wait(stream),
            Ok(Request::Attach { stdin }) => return self.attach(stream, stdin),
            Ok(Request::Exec(process)) => return self.exec(stream, &process),
            Ok(Request::Discard) => {
                let mut started = lock(&self.started);
                if *started {
                    Err(Error::conflict("the workload was started"))
                } else {
                    *started = true;
                    self.end(Outcome::Discarded);
                    Ok(())
                }
            }
            Err(error) => Err(error),
        };
        let reply = match done {
            Ok(()) => Reply::Done,
            Err(error) => Reply::Failed((&error).into()),
        };
        answer(&mut stream, &reply);
    }

    fn start(self: &Arc<Self>) -> Result<()> {
        let mut started = lock(&self.started);
        if *started {
            return Err(Error::conflict("the workload was started before"));
        }
        *started = true;
        if let Err(error) = self.supervised.sandbox.start() {
            self.end(Outcome::Discarded);
            return Err(error);
        }
        let started_at = SystemTime::now();
        let pid = self.supervised.sandbox.pid();
        let written = self
            .supervised
            .status
            .write(&Some(Status::Running { started_at, pid }));
        if written.is_err()
            && let Err(error) = self.supervised.sandbox.signal(SIGKILL)
        {
            tracing::debug!(%error, "the workload has ended already");
        }
        let server = Arc::clone(self);
        std::thread::spawn(move || {
            let exit = match server.supervised.sandbox.wait() {
                Ok(exit) => server.supervised.exit_status(exit),
                Err(error) => {
                    tracing::error!(%error, "the sandbox was lost");
                    ExitStatus::KILLED
                }
            };
            let error = server.supervised.sandbox.death();
            server.end(Outcome::Exited {
                started_at,
                finished_at: SystemTime::now(),
                ending: Ending { exit, error },
            });
        });
        written
    }

    fn discard_unstarted(&self) {
        let mut started = lock(&self.started);
        if !*started {
            *started = true;
            tracing::warn!("nobody starts the sandbox: it is discarded");
            self.end(Outcome::Discarded);
        }
    }

    fn end(&self, outcome: Outcome) {
        if self.ended.send(outcome).is_err() {
            tracing::debug!("the end was announced before");
        }
    }

    fn with_pause(&self, act: impl Fn(&dyn bulkhead_model::Pause) -> Result<()>) -> Result<()> {
        match self.supervised.sandbox.pause() {
            Some(pause) => act(pause),
            None => Err(Error::unsupported("this kind of sandbox cannot be paused")),
        }
    }

    fn wait(&self, mut stream: UnixStream) {
        let mut state = lock(&self.waiters.state);
        match &state.announced {
            Some(ending) => answer(&mut stream, &Reply::Exited(ending.clone())),
            None => state.streams.push(stream),
        }
    }

    fn attach(&self, mut stream: UnixStream, with_stdin: bool) {
        let _session = self.supervised.hub.session();
        let chunks = self.supervised.hub.attach();
        answer(&mut stream, &Reply::Done);
        if let Ok(mut input) = stream.try_clone() {
            let supervised = Arc::clone(&self.supervised);
            std::thread::spawn(move || {
                while let Ok(Some((channel, payload))) = read_frame(&mut input) {
                    let done = match channel {
                        Channel::Stdin if with_stdin => {
                            supervised.hub.write_stdin(&payload).map_err(stdin_failed)
                        }
                        Channel::Resize => {
                            parse_size(&payload).and_then(|size| supervised.sandbox.resize(size))
                        }
                        _ => Ok(()),
                    };
                    if let Err(error) = done {
                        tracing::debug!(%error, "input of an attached client");
                    }
                }
            });
        }
        for (channel, data) in chunks {
            if write_frame(&mut stream, channel, &data).is_err() {
                return;
            }
        }
    }

    fn exec(&self, mut stream: UnixStream, process: &ProcessSpec) {
        let _session = self.supervised.hub.session();
        let started = match self.supervised.sandbox.exec() {
            Some(exec) => exec.exec(process),
            None => Err(Error::unsupported(
                "this kind of sandbox runs no further process",
            )),
        };
        match started {
            Ok((process, io)) => {
                answer(&mut stream, &Reply::Running(process.pid()));
                carry(stream, Arc::from(process), io);
            }
            Err(error) => answer(&mut stream, &Reply::Failed((&error).into())),
        }
    }
}

/// Carries the streams of an exec until it has ended. A client that goes away does not end it.
fn carry(stream: UnixStream, process: Arc<dyn Process>, io: ProcessIo) {
    let writer = Arc::new(Mutex::new(stream));
    let input = lock(&writer).try_clone();
    if let Ok(mut input) = input {
        let process = Arc::clone(&process);
        let mut stdin = io.stdin;
        std::thread::spawn(move || {
            while let Ok(Some((channel, payload))) = read_frame(&mut input) {
                let done = match (channel, stdin.as_mut()) {
                    (Channel::Stdin, _) if payload.is_empty() => {
                        stdin = None;
                        Ok(())
                    }
                    (Channel::Stdin, Some(file)) => file.write_all(&payload).map_err(stdin_failed),
                    (Channel::Resize, _) => {
                        parse_size(&payload).and_then(|size| process.resize(size))
                    }
                    (Channel::Signal, _) => serde_json::from_slice(&payload)
                        .map_err(|error| Error::channel("signal").with_source(error))
                        .and_then(|signal| process.signal(signal)),
                    _ => Ok(()),
                };
                if let Err(error) = done {
                    tracing::debug!(%error, "input of an exec");
                }
            }
        });
    }
    let mut pumps = Vec::new();
    let stderr = io.stderr.map(|file| (Channel::Stderr, file));
    for (channel, mut file) in [Some((Channel::Stdout, io.stdout)), stderr]
        .into_iter()
        .flatten()
    {
        let writer = Arc::clone(&writer);
        pumps.push(std::thread::spawn(move || {
            let mut buffer = vec![0; FRAME_LIMIT / 2];
            let mut connected = true;
            while let Ok(length @ 1..) = std::io::Read::read(&mut file, &mut buffer) {
                // A client that went away is not told; the process must not block on its output.
                connected = connected
                    && write_frame(&mut *lock(&writer), channel, &buffer[..length]).is_ok();
            }
        }));
    }
    let exit = process.wait().unwrap_or_else(|error| {
        tracing::error!(%error, "an exec was lost");
        ExitStatus::KILLED
    });
    for pump in pumps {
        if pump.join().is_err() {
            tracing::error!("a thread that carried output has died");
        }
    }
    let payload = serde_json::to_vec(&exit).expect("an exit status is plain data");
    if let Err(error) = write_frame(&mut *lock(&writer), Channel::Exit, &payload) {
        tracing::debug!(%error, "nobody hears of the end of an exec");
    }
    // The reader holds a second descriptor of the connection: closing ours would not end it.
    if let Err(error) = lock(&writer).shutdown(std::net::Shutdown::Both) {
        tracing::debug!(%error, "connection of an exec");
    }
}

fn stdin_failed(error: std::io::Error) -> Error {
    Error::channel("write to stdin").with_source(error)
}

fn parse_size(payload: &[u8]) -> Result<TerminalSize> {
    serde_json::from_slice(payload)
        .map_err(|error| Error::channel("terminal size").with_source(error))
}

fn answer(stream: &mut UnixStream, reply: &Reply) {
    if let Err(error) = write_line(stream, reply) {
        tracing::debug!(%error, "nobody reads a reply");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}
