//! Connects this program's standard streams with those of a process in a sandbox.

use std::io::{self, Read, Write};

use bulkhead_api::client::Hijacked;
use bulkhead_api::multiplex::Stream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::failure::{Failure, Result};
use crate::terminal::{self, RawMode};

/// ctrl-p ctrl-q.
pub const DETACH_KEYS: [u8; 2] = [0x10, 0x11];

/// Signals that are passed on to the process where no terminal turns keys into them.
const PASSED_ON: [(SignalKind, &str); 6] = [
    (SignalKind::interrupt(), "INT"),
    (SignalKind::terminate(), "TERM"),
    (SignalKind::hangup(), "HUP"),
    (SignalKind::quit(), "QUIT"),
    (SignalKind::user_defined1(), "USR1"),
    (SignalKind::user_defined2(), "USR2"),
];

/// What else happens while the streams are connected.
pub enum Happening {
    /// The terminal has a new size: rows, columns.
    Resized(u16, u16),
    /// This program got a signal, which the process is to get instead.
    Signal(&'static str),
}

/// How the connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// All output has arrived.
    Ended,
    /// The user has pressed the detach keys.
    Detached,
}

pub struct Settings {
    /// Pass our stdin on.
    pub stdin: bool,
    /// The process has a terminal: ours becomes raw and follows in size.
    pub terminal: bool,
    /// Keys that end the connection, and not the process; empty for none.
    pub detach_keys: &'static [u8],
    /// Report signals instead of dying of them.
    pub pass_signals: bool,
}

/// Passes everything on until the process's output ends or the user detaches. `happened` is asked
/// to act on everything else, and is not waited for with the output held up.
pub async fn connect<F>(
    mut connection: Hijacked,
    settings: &Settings,
    happened: F,
) -> Result<Ending>
where
    F: AsyncFn(Happening),
{
    let _raw_mode = match settings.terminal && settings.stdin {
        true => RawMode::enter(),
        false => None,
    };
    let mut input = match settings.stdin {
        true => Some(read_stdin()),
        false => None,
    };
    let mut happenings = watch(settings)?;
    let mut keys = DetachKeys::new(settings.detach_keys);
    if settings.terminal
        && let Some((rows, columns)) = terminal::size()
    {
        happened(Happening::Resized(rows, columns)).await;
    }
    loop {
        tokio::select! {
            biased;
            happening = happenings.recv() => {
                if let Some(happening) = happening {
                    happened(happening).await;
                }
            }
            chunk = connection.output.next() => match chunk {
                Ok(Some(chunk)) => write(chunk.stream, &chunk.data)?,
                Ok(None) => return Ok(Ending::Ended),
                Err(error) => return Err(error.into()),
            },
            data = receive(&mut input) => match data {
                Some(data) => {
                    let (data, detached) = keys.filter(&data);
                    // A process that reads no more still writes.
                    if !data.is_empty() && connection.input.write(&data).await.is_err() {
                        input = None;
                    }
                    if detached {
                        return Ok(Ending::Detached);
                    }
                }
                None => {
                    input = None;
                    let _ = connection.input.close().await;
                }
            },
        }
    }
}

async fn receive(input: &mut Option<mpsc::Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    match input {
        Some(input) => input.recv().await,
        None => std::future::pending().await,
    }
}

fn write(stream: Stream, data: &[u8]) -> Result<()> {
    match stream {
        Stream::Stderr => {
            let mut stderr = io::stderr().lock();
            stderr.write_all(data)?;
            stderr.flush()?;
        }
        Stream::Stdin | Stream::Stdout => {
            let mut stdout = io::stdout().lock();
            stdout.write_all(data)?;
            stdout.flush()?;
        }
    }
    Ok(())
}

/// Reads stdin on a thread, which stays blocked in its last read when nobody listens any more.
fn read_stdin() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        let mut buffer = vec![0; 32 << 10];
        loop {
            match stdin.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => {
                    if sender.blocking_send(buffer[..length].to_vec()).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    });
    receiver
}

fn watch(settings: &Settings) -> Result<mpsc::UnboundedReceiver<Happening>> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let cannot = |error: io::Error| Failure::new(format!("watch for signals: {error}"));
    if settings.terminal {
        let mut resized = signal(SignalKind::window_change()).map_err(cannot)?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while resized.recv().await.is_some() {
                if let Some((rows, columns)) = terminal::size() {
                    let _ = sender.send(Happening::Resized(rows, columns));
                }
            }
        });
    }
    if settings.pass_signals {
        for (kind, name) in PASSED_ON {
            let mut signals = signal(kind).map_err(cannot)?;
            let sender = sender.clone();
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    let _ = sender.send(Happening::Signal(name));
                }
            });
        }
    }
    // A receiver without senders would be ready at once, again and again.
    if !settings.terminal && !settings.pass_signals {
        tokio::spawn(async move {
            let _kept = sender;
            std::future::pending::<()>().await;
        });
    }
    Ok(receiver)
}

/// Finds the detach keys in what is typed, also when they arrive one by one.
#[derive(Debug)]
struct DetachKeys {
    keys: &'static [u8],
    /// How many of the keys have been pressed in a row, and are held back.
    pressed: usize,
}

impl DetachKeys {
    fn new(keys: &'static [u8]) -> Self {
        Self { keys, pressed: 0 }
    }

    /// What is to be passed on, and whether the keys were complete.
    fn filter(&mut self, data: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(data.len());
        for &byte in data {
            if self.keys.get(self.pressed) == Some(&byte) {
                self.pressed += 1;
                if self.pressed == self.keys.len() {
                    return (passed, true);
                }
                continue;
            }
            passed.extend_from_slice(&self.keys[..self.pressed]);
            self.pressed = 0;
            if self.keys.first() == Some(&byte) {
                self.pressed = 1;
            } else {
                passed.push(byte);
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_detach_keys_are_found_and_held_back() {
        let mut keys = DetachKeys::new(&DETACH_KEYS);
        assert_eq!(keys.filter(b"ab"), (b"ab".to_vec(), false));
        assert_eq!(keys.filter(b"c\x10"), (b"c".to_vec(), false));
        assert_eq!(keys.filter(b"d"), (b"\x10d".to_vec(), false));
        assert_eq!(keys.filter(b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(keys.filter(b"\x11x"), (vec![], true));
    }

    #[test]
    fn without_detach_keys_everything_passes() {
        let mut keys = DetachKeys::new(&[]);
        assert_eq!(keys.filter(b"\x10\x11"), (b"\x10\x11".to_vec(), false));
    }
}
