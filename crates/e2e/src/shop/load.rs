//! What goes on while the shop is disturbed: requests without a pause, and a log that is followed.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::Shop;
use crate::http::Request;

/// Requests without a pause, from several threads, each of which must be answered with 200.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<usize>>,
    failures: Arc<Mutex<Vec<String>>>,
}

impl Load {
    pub(super) fn start(gateway: SocketAddr, paths: Vec<String>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let failures = Arc::new(Mutex::new(Vec::new()));
        let threads = paths
            .into_iter()
            .map(|path| {
                let (stop, failures) = (stop.clone(), failures.clone());
                std::thread::spawn(move || {
                    let mut answered = 0;
                    while !stop.load(Ordering::Relaxed) {
                        match Request::get(&path)
                            .send_tcp(gateway)
                            .and_then(|answer| answer.expect(200))
                        {
                            Ok(_) => answered += 1,
                            Err(error) => failures
                                .lock()
                                .unwrap_or_else(PoisonError::into_inner)
                                .push(format!("{path}: {error:#}")),
                        }
                    }
                    answered
                })
            })
            .collect();
        Self {
            stop,
            threads,
            failures,
        }
    }

    /// How many requests were answered.
    pub(super) fn finish(self) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        let mut answered = 0;
        for thread in self.threads {
            match thread.join() {
                Ok(count) => answered += count,
                Err(_) => bail!("a thread of the load panicked"),
            }
        }
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(
            failures.is_empty(),
            "{} requests were lost, {answered} answered; the first: {}",
            failures.len(),
            failures.first().map_or("", String::as_str)
        );
        ensure!(answered > 0, "no request was answered");
        Ok(answered)
    }
}

/// `logs -f` of the orders, begun now.
pub(super) struct Follower {
    process: std::process::Child,
    lines: mpsc::Receiver<String>,
}

impl Follower {
    pub(super) fn start(shop: &Shop<'_>) -> Result<Self> {
        let arguments = [
            shop.files.as_slice(),
            &["logs", "-f", "--tail", "1", "orders"],
        ]
        .concat();
        let mut process = shop
            .instance
            .command(&arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let stdout = process.stdout.take().context("no stdout")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { process, lines })
    }

    pub(super) fn wait_for(&mut self, text: &str) -> Result<()> {
        loop {
            let line = self
                .lines
                .recv_timeout(Duration::from_secs(20))
                .with_context(|| format!("no line with {text}"))?;
            if line.contains(text) {
                return Ok(());
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
