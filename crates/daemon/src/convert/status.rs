//! States in words.

use std::time::{Duration, SystemTime};

use bulkhead_engine::{HealthStatus, Record, State};

pub(crate) fn state_word(state: State) -> &'static str {
    match state {
        State::Created | State::Starting => "created",
        State::Running => "running",
        State::Paused => "paused",
        State::Restarting => "restarting",
        State::Exited => "exited",
        State::Dead => "dead",
    }
}

pub(crate) fn health_word(status: HealthStatus) -> &'static str {
    match status {
        HealthStatus::None => "none",
        HealthStatus::Starting => "starting",
        HealthStatus::Healthy => "healthy",
        HealthStatus::Unhealthy => "unhealthy",
    }
}

/// `Up 5 minutes (healthy)`, `Exited (1) 2 hours ago`, …
pub(crate) fn status_text(record: &Record) -> String {
    let since = |time: Option<SystemTime>| {
        duration_text(
            time.and_then(|time| time.elapsed().ok())
                .unwrap_or_default(),
        )
    };
    match record.state {
        State::Created | State::Starting => "Created".to_owned(),
        State::Running | State::Paused => {
            let health = match record.health.status {
                _ if record.state == State::Paused => " (Paused)",
                HealthStatus::None => "",
                HealthStatus::Starting => " (health: starting)",
                HealthStatus::Healthy => " (healthy)",
                HealthStatus::Unhealthy => " (unhealthy)",
            };
            format!("Up {}{health}", since(record.started_at))
        }
        State::Restarting => {
            format!(
                "Restarting ({}) {} ago",
                record.exit_code(),
                since(record.finished_at)
            )
        }
        State::Exited => {
            format!(
                "Exited ({}) {} ago",
                record.exit_code(),
                since(record.finished_at)
            )
        }
        State::Dead => "Dead".to_owned(),
    }
}

/// A duration as Docker's clients write it.
fn duration_text(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let plural = |count: u64, unit: &str| format!("{count} {unit}");
    match seconds {
        0 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => plural(seconds, "seconds"),
        60..120 => "About a minute".to_owned(),
        120..3600 => plural(seconds / 60, "minutes"),
        3600..7200 => "About an hour".to_owned(),
        7200..172_800 => plural(seconds / 3600, "hours"),
        172_800..1_209_600 => plural(seconds / 86_400, "days"),
        _ => plural(seconds / 604_800, "weeks"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_docker_writes_them() {
        let text = |seconds| duration_text(Duration::from_secs(seconds));
        assert_eq!(text(0), "Less than a second");
        assert_eq!(text(59), "59 seconds");
        assert_eq!(text(61), "About a minute");
        assert_eq!(text(7300), "2 hours");
        assert_eq!(text(86_400 * 3), "3 days");
    }
}
