//! Health checks: a command run in the sandbox at intervals.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bulkhead_model::ProcessSpec;

use crate::config::HealthCheck;
use crate::engine::Inner;
use crate::entry::Entry;
use crate::events::Action;
use crate::ports::{Input, Output, RemoteSandbox};
use crate::record::{HealthStatus, Probe, State};

/// The pause before the first probe; it doubles until the first success or until it has reached
/// the check's own. A service is not called healthy later than it must be.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// How much of a probe's output is kept, in bytes.
const OUTPUT_LIMIT: usize = 4096;
const SIGKILL: i32 = 9;

impl Inner {
    /// Probes until the sandbox has ended.
    pub(crate) async fn probe(
        self: Arc<Self>,
        entry: Arc<Entry>,
        remote: Arc<dyn RemoteSandbox>,
        check: HealthCheck,
    ) {
        let begun = Instant::now();
        let mut status = entry.look(|record| record.health.status);
        let longest_first = check.start_interval.min(check.interval);
        let mut pause = FIRST_PAUSE.min(longest_first);
        let mut first_failure: Option<Instant> = None;
        loop {
            tokio::time::sleep(pause).await;
            match entry.look(|record| record.state) {
                State::Running => {}
                State::Paused => continue,
                _ => return,
            }
            let probe = run(&*remote, &check, &entry.look(|r| r.config.process.clone())).await;
            let healthy = probe.exit_code == 0;
            // A probe sooner than the check's interval after the last counted one is a bonus: it
            // may find the service healthy, but its failure is no evidence.
            let counts = !healthy
                && begun.elapsed() >= check.start_period
                && (status != HealthStatus::Starting
                    || first_failure.is_none_or(|last| last.elapsed() >= check.interval)
                        && begun.elapsed() >= check.interval);
            if counts {
                first_failure = Some(Instant::now());
            }
            let next = self.judge(&entry, probe, healthy, counts, check.retries);
            status = next;
            pause = match status {
                HealthStatus::Starting => (pause * 2).min(longest_first),
                // Unhealthy services are looked at as often as the check says.
                _ => check.interval,
            };
        }
    }

    fn judge(
        &self,
        entry: &Entry,
        probe: Probe,
        healthy: bool,
        counts: bool,
        retries: u32,
    ) -> HealthStatus {
        let before = entry.look(|record| record.health.status);
        let changed = entry.change(&*self.store, |record| {
            let health = &mut record.health;
            health.push(probe);
            if healthy {
                health.failing_streak = 0;
                health.status = HealthStatus::Healthy;
                if record.ready_duration.is_none() {
                    let since_start = record
                        .started_at
                        .and_then(|start| start.elapsed().ok())
                        .unwrap_or_default();
                    record.ready_duration =
                        Some(record.start_duration.unwrap_or_default() + since_start);
                }
            } else if counts {
                health.failing_streak += 1;
                if health.failing_streak >= retries.max(1) {
                    health.status = HealthStatus::Unhealthy;
                }
            }
        });
        if let Err(error) = changed {
            tracing::error!(%error, sandbox = entry.id, "the result of a probe is not kept");
        }
        let record = entry.record();
        let status = record.health.status;
        if status != before {
            let text = match status {
                HealthStatus::Healthy => "healthy",
                HealthStatus::Unhealthy => "unhealthy",
                HealthStatus::Starting => "starting",
                HealthStatus::None => "none",
            };
            self.emit_sandbox(&record, Action::Health, [("health", text.to_owned())]);
            self.topology_changed();
        }
        status
    }
}

/// Runs the check once.
async fn run(remote: &dyn RemoteSandbox, check: &HealthCheck, workload: &ProcessSpec) -> Probe {
    let started_at = SystemTime::now();
    let process = ProcessSpec {
        args: check.test.clone(),
        terminal: None,
        stdin: false,
        ..workload.clone()
    };
    let late = || {
        (
            -1,
            format!("health check exceeded timeout ({:?})", check.timeout),
        )
    };
    // The time is for both together: a guest that does not answer must not stop the checks.
    let deadline = tokio::time::Instant::now() + check.timeout;
    let (exit_code, output) = match tokio::time::timeout_at(deadline, remote.exec(process)).await {
        Err(_) => late(),
        Ok(Err(error)) => (-1, error.to_string()),
        Ok(Ok((_, mut session))) => {
            let mut output = Vec::new();
            let collected = tokio::time::timeout_at(deadline, async {
                while let Some(chunk) = session.output.recv().await {
                    match chunk {
                        Output::Stdout(data) | Output::Stderr(data) => {
                            let room = OUTPUT_LIMIT.saturating_sub(output.len()).min(data.len());
                            output.extend_from_slice(&data[..room]);
                        }
                        Output::Exited(exit) => return exit.code,
                    }
                }
                -1
            });
            match collected.await {
                Ok(code) => (code, String::from_utf8_lossy(&output).into_owned()),
                Err(_) => {
                    if session.input.send(Input::Signal(SIGKILL)).await.is_err() {
                        tracing::debug!("a probe ended just after its time");
                    }
                    late()
                }
            }
        }
    };
    Probe {
        started_at,
        ended_at: SystemTime::now(),
        exit_code,
        output,
    }
}
