//! Watching over a running sandbox: its end, and what the restart policy makes of it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bulkhead_model::{Ending, ExitStatus};

use crate::config::RestartPolicy;
use crate::engine::Inner;
use crate::entry::Entry;
use crate::events::Action;
use crate::ports::RemoteSandbox;
use crate::record::{HealthStatus, Record, State};

/// The pause before the first restart; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A run of this length was a success: the next pause is the first again.
const GOOD_RUN: Duration = Duration::from_secs(10);

impl Inner {
    /// Hears of the workload's end, and runs its health check meanwhile.
    pub(crate) fn watch_over(self: &Arc<Self>, entry: &Arc<Entry>, remote: Arc<dyn RemoteSandbox>) {
        let inner = Arc::clone(self);
        let entry = Arc::clone(entry);
        let probing = entry
            .look(|record| record.config.health.clone())
            .map(|check| {
                tokio::spawn(Arc::clone(&inner).probe(
                    Arc::clone(&entry),
                    Arc::clone(&remote),
                    check,
                ))
            });
        tokio::spawn(async move {
            let ending = match remote.wait().await {
                Ok(ending) => ending,
                Err(error) => {
                    // The supervisor is gone. What it wrote last may still tell the truth.
                    tracing::error!(%error, sandbox = entry.id, "a supervisor was lost");
                    match inner.launcher.last_exit(&entry.id) {
                        Ok(Some((_, ending))) => ending,
                        _ => ExitStatus::KILLED.into(),
                    }
                }
            };
            if let Some(probing) = probing {
                probing.abort();
            }
            inner.ended(&entry, ending, SystemTime::now()).await;
        });
    }

    /// Takes note of a workload's end.
    pub(crate) async fn ended(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        ending: Ending,
        finished_at: SystemTime,
    ) {
        let Ending { exit, error } = ending;
        self.release(entry).await;
        if let Err(error) = self.launcher.clean(&entry.id).await {
            tracing::error!(%error, sandbox = entry.id, "something is left of a sandbox");
        }
        let before = entry.record();
        let pause = restart_pause(&before, exit, finished_at);
        let changed = entry.note(&*self.store, |record| {
            if record.state == State::Dead {
                // It is being removed, which goes on.
                return;
            }
            record.state = if pause.is_some() {
                State::Restarting
            } else {
                State::Exited
            };
            record.pid = None;
            record.exit = Some(exit);
            record.error = error.clone();
            record.finished_at = Some(finished_at);
            if record.config.health.is_some() {
                record.health.status = HealthStatus::Unhealthy;
            }
            if pause.is_some() {
                record.restart_count += 1;
            }
        });
        if let Err(error) = changed {
            tracing::error!(%error, sandbox = entry.id, "the end of a workload is not kept");
        }
        let record = entry.record();
        if exit.oom_killed {
            self.emit_sandbox(&record, Action::OutOfMemory, []);
        }
        let code = exit.code.to_string();
        match error {
            Some(error) => {
                let why = [("exitCode", code), ("error", error)];
                self.emit_sandbox(&record, Action::Die, why);
            }
            None => self.emit_sandbox(&record, Action::Die, [("exitCode", code)]),
        }
        self.topology_changed();
        match pause {
            Some(pause) => self.restart_later(entry, pause),
            None if record.config.auto_remove => {
                let inner = Arc::clone(self);
                let entry = Arc::clone(entry);
                // A stop or removal that is under way holds the lock until it has seen the end.
                tokio::spawn(async move {
                    let _operation = entry.operation.lock().await;
                    inner.remove_if_asked(&entry).await;
                });
            }
            None => {}
        }
    }

    pub(crate) fn restart_later(self: &Arc<Self>, entry: &Arc<Entry>, pause: Duration) {
        let inner = Arc::clone(self);
        let entry = Arc::clone(entry);
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            let _operation = entry.operation.lock().await;
            let (state, stopped) = entry.look(|record| (record.state, record.stopped_by_user));
            if state != State::Restarting || stopped || !inner.is_known(&entry.id) {
                return;
            }
            if let Err(error) = inner.start_locked(&entry).await {
                tracing::warn!(%error, sandbox = entry.id, "a restart failed");
            }
        });
    }

    /// With the operation lock held: removes a sandbox that stands still and is to remove itself.
    /// One that was started again meanwhile (`restart`) is left alone.
    pub(crate) async fn remove_if_asked(self: &Arc<Self>, entry: &Arc<Entry>) {
        let asked = entry.look(|record| {
            record.config.auto_remove && matches!(record.state, State::Created | State::Exited)
        });
        if asked
            && self.is_known(&entry.id)
            && let Err(error) = self.remove_locked(entry, true).await
        {
            tracing::error!(%error, sandbox = entry.id, "it could not be removed");
        }
    }
}

/// How long to wait before a restart; `None` if the policy wants none.
pub(crate) fn restart_pause(
    record: &Record,
    exit: ExitStatus,
    finished_at: SystemTime,
) -> Option<Duration> {
    let wanted = !record.stopped_by_user
        && !record.config.auto_remove
        && match record.config.restart {
            RestartPolicy::No => false,
            RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
            RestartPolicy::OnFailure { maximum } => {
                exit.code != 0 && (maximum == 0 || record.restart_count < maximum)
            }
        };
    if !wanted {
        return None;
    }
    let ran = record
        .started_at
        .and_then(|start| finished_at.duration_since(start).ok());
    if ran.is_some_and(|ran| ran >= GOOD_RUN) {
        return Some(FIRST_PAUSE);
    }
    let doublings = record.restart_count.min(16);
    Some((FIRST_PAUSE * (1 << doublings)).min(LONGEST_PAUSE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::record;

    fn pause(policy: RestartPolicy, count: u32, code: i32) -> Option<Duration> {
        let mut record = record(policy);
        record.restart_count = count;
        restart_pause(
            &record,
            ExitStatus {
                code,
                oom_killed: false,
            },
            SystemTime::now(),
        )
    }

    #[test]
    fn policies_decide() {
        assert_eq!(pause(RestartPolicy::No, 0, 1), None);
        assert_eq!(pause(RestartPolicy::Always, 0, 0), Some(FIRST_PAUSE));
        assert_eq!(pause(RestartPolicy::OnFailure { maximum: 2 }, 0, 0), None);
        assert!(pause(RestartPolicy::OnFailure { maximum: 2 }, 1, 1).is_some());
        assert_eq!(pause(RestartPolicy::OnFailure { maximum: 2 }, 2, 1), None);
        assert!(pause(RestartPolicy::OnFailure { maximum: 0 }, 99, 1).is_some());
    }

    #[test]
    fn a_stop_by_the_user_and_self_removal_come_first() {
        let killed = ExitStatus {
            code: 137,
            oom_killed: false,
        };
        let mut stopped = record(RestartPolicy::Always);
        stopped.stopped_by_user = true;
        assert_eq!(restart_pause(&stopped, killed, SystemTime::now()), None);
        let mut removed = record(RestartPolicy::Always);
        removed.config.auto_remove = true;
        assert_eq!(restart_pause(&removed, killed, SystemTime::now()), None);
    }

    #[test]
    fn pauses_double_up_to_a_minute_and_a_good_run_ends_that() {
        assert_eq!(pause(RestartPolicy::Always, 3, 1), Some(FIRST_PAUSE * 8));
        assert_eq!(
            pause(RestartPolicy::Always, u32::MAX, 1),
            Some(LONGEST_PAUSE)
        );
        let mut record = record(RestartPolicy::Always);
        record.restart_count = 9;
        let start = SystemTime::now();
        record.started_at = Some(start);
        let exit = ExitStatus {
            code: 1,
            oom_killed: false,
        };
        assert_eq!(
            restart_pause(&record, exit, start + GOOD_RUN),
            Some(FIRST_PAUSE)
        );
        // The clock was put back meanwhile: no run at all, and no panic.
        assert_eq!(
            restart_pause(&record, exit, start - GOOD_RUN),
            Some(FIRST_PAUSE * 512)
        );
    }
}
