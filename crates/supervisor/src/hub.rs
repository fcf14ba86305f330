//! Carries the workload's output to its log and to everybody attached, and their input to it.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bulkhead_model::{ExitStatus, ProcessIo};

use crate::log::{LineBuffer, LogWriter};
use crate::protocol::Channel;

/// How many chunks an attached client may be behind.
const CLIENT_QUEUE: usize = 64;
/// How long output waits for a client that does not read, before the client is let go.
const CLIENT_PATIENCE: Duration = Duration::from_secs(10);

pub(crate) type Chunk = (Channel, Arc<[u8]>);

pub(crate) struct Hub {
    log: LogWriter,
    clients: Mutex<Vec<SyncSender<Chunk>>>,
    stdin: Mutex<Option<File>>,
    pumps: Mutex<Vec<JoinHandle<()>>>,
    /// Connections whose client has not been told everything yet.
    sessions: Mutex<usize>,
    session_ended: Condvar,
}

/// A connection to a client; the supervisor does not end before it is told everything.
pub(crate) struct Session {
    hub: Arc<Hub>,
}

impl Drop for Session {
    fn drop(&mut self) {
        *lock(&self.hub.sessions) -= 1;
        self.hub.session_ended.notify_all();
    }
}

impl Hub {
    pub(crate) fn start(io: Option<ProcessIo>, log: LogWriter) -> Arc<Self> {
        let (stdin, outputs) = match io {
            Some(io) => {
                let stderr = io.stderr.map(|file| (Channel::Stderr, file));
                (io.stdin, [Some((Channel::Stdout, io.stdout)), stderr])
            }
            None => (None, [None, None]),
        };
        let hub = Arc::new(Self {
            log,
            clients: Mutex::default(),
            stdin: Mutex::new(stdin),
            pumps: Mutex::default(),
            sessions: Mutex::default(),
            session_ended: Condvar::new(),
        });
        for (channel, file) in outputs.into_iter().flatten() {
            let pumping = Arc::clone(&hub);
            let pump = std::thread::spawn(move || pumping.pump(channel, file));
            lock(&hub.pumps).push(pump);
        }
        hub
    }

    /// Joins the output from now on.
    pub(crate) fn attach(&self) -> Receiver<Chunk> {
        let (sender, receiver) = sync_channel(CLIENT_QUEUE);
        lock(&self.clients).push(sender);
        receiver
    }

    /// Writes to the workload's stdin; an empty chunk closes it.
    pub(crate) fn write_stdin(&self, data: &[u8]) -> std::io::Result<()> {
        let mut stdin = lock(&self.stdin);
        match stdin.as_mut() {
            Some(_) if data.is_empty() => *stdin = None,
            Some(file) => file.write_all(data)?,
            None => {}
        }
        Ok(())
    }

    /// Blocks until all output is in the log.
    pub(crate) fn drain(&self) {
        for pump in std::mem::take(&mut *lock(&self.pumps)) {
            if pump.join().is_err() {
                tracing::error!("a thread that carried output has died");
            }
        }
    }

    /// Tells everybody attached that the workload has ended, and lets them go.
    pub(crate) fn finish(&self, exit: ExitStatus) {
        let payload = serde_json::to_vec(&exit).expect("an exit status is plain data");
        self.broadcast(Channel::Exit, &payload);
        lock(&self.clients).clear();
    }

    /// Announces a connection that must be served to its end.
    pub(crate) fn session(self: &Arc<Self>) -> Session {
        *lock(&self.sessions) += 1;
        Session {
            hub: Arc::clone(self),
        }
    }

    /// Blocks until every client has been told everything, or has had its time for it.
    pub(crate) fn wait_for_sessions(&self) {
        let open = lock(&self.sessions);
        let waited = self
            .session_ended
            .wait_timeout_while(open, CLIENT_PATIENCE, |open| *open > 0);
        if let Ok((open, timeout)) = waited
            && timeout.timed_out()
        {
            tracing::warn!(clients = *open, "clients that do not read miss the end");
        }
    }

    fn pump(&self, channel: Channel, mut file: File) {
        let name = if channel == Channel::Stderr {
            "stderr"
        } else {
            "stdout"
        };
        let mut line = LineBuffer::default();
        let mut buffer = vec![0; 32 * 1024];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => {
                    self.log.write(name, &mut line, &buffer[..length]);
                    self.broadcast(channel, &buffer[..length]);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // EIO is how a terminal says that its last process has gone.
                Err(_) => break,
            }
        }
        self.log.flush(name, &mut line);
    }

    fn broadcast(&self, channel: Channel, data: &[u8]) {
        let mut clients = lock(&self.clients);
        if clients.is_empty() {
            return;
        }
        let chunk: Arc<[u8]> = data.into();
        clients.retain(|client| send_patiently(client, (channel, Arc::clone(&chunk))));
    }
}

/// Sends to a client; false if it went away or did not read for too long.
fn send_patiently(client: &SyncSender<Chunk>, chunk: Chunk) -> bool {
    let deadline = Instant::now() + CLIENT_PATIENCE;
    let mut chunk = chunk;
    loop {
        match client.try_send(chunk) {
            Ok(()) => return true,
            Err(TrySendError::Disconnected(_)) => return false,
            Err(TrySendError::Full(returned)) => {
                if Instant::now() >= deadline {
                    return false;
                }
                chunk = returned;
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}
