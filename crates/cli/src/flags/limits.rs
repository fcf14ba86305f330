//! Limits, restart policies, health checks and security options.

use std::collections::HashMap;
use std::time::Duration;

use bulkhead_api::docker::{ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum};
use bulkhead_model::ByteSize;

use crate::failure::{Failure, Result};
use crate::time;

/// Bytes of `--memory`, `--shm-size` and the like.
pub fn parse_size(flag: &str, text: &str) -> Result<i64> {
    ByteSize::parse(text)
        .and_then(|size| i64::try_from(size.bytes()).ok())
        .ok_or_else(|| {
            Failure::new(format!(
                "{flag} {text}: no size; write a number with b, k, m or g, such as 512m"
            ))
        })
}

/// Billionths of a CPU of `--cpus`.
pub fn parse_cpus(text: &str) -> Result<i64> {
    match text.parse::<f64>() {
        Ok(cpus) if (0.001..=4096.0).contains(&cpus) => Ok((cpus * 1e9).round() as i64),
        _ => Err(Failure::new(format!(
            "--cpus {text}: no number of CPUs; write a number such as 1.5"
        ))),
    }
}

/// `--ulimit NAME=SOFT[:HARD]`, -1 for no limit.
pub fn parse_ulimit(text: &str) -> Result<ResourcesUlimits> {
    let parse = || {
        let (name, limits) = text.split_once('=')?;
        let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
        let number = |text: &str| match text {
            "-1" | "unlimited" => Some(-1),
            text => text.parse::<i64>().ok().filter(|limit| *limit >= 0),
        };
        let (soft, hard) = (number(soft)?, number(hard)?);
        let in_order = hard == -1 || (soft != -1 && soft <= hard);
        (in_order && !name.is_empty()).then(|| ResourcesUlimits {
            name: Some(name.to_owned()),
            soft: Some(soft),
            hard: Some(hard),
        })
    };
    parse().ok_or_else(|| {
        Failure::new(format!(
            "--ulimit {text}: write it as name=soft[:hard] with soft at most hard, \
             such as nofile=1024:2048"
        ))
    })
}

/// `--restart no|always|unless-stopped|on-failure[:TIMES]`.
pub fn parse_restart(text: &str) -> Result<RestartPolicy> {
    let policy = |name, times| RestartPolicy {
        name: Some(name),
        maximum_retry_count: times,
    };
    let (name, times) = match text.split_once(':') {
        Some((name, times)) => (name, Some(times.parse::<i64>().ok().filter(|n| *n >= 0))),
        None => (text, None),
    };
    match (name, times) {
        ("no" | "", None) => Ok(policy(RestartPolicyNameEnum::NO, None)),
        ("always", None) => Ok(policy(RestartPolicyNameEnum::ALWAYS, None)),
        ("unless-stopped", None) => Ok(policy(RestartPolicyNameEnum::UNLESS_STOPPED, None)),
        ("on-failure", None) => Ok(policy(RestartPolicyNameEnum::ON_FAILURE, None)),
        ("on-failure", Some(Some(times))) => {
            Ok(policy(RestartPolicyNameEnum::ON_FAILURE, Some(times)))
        }
        _ => Err(Failure::new(format!(
            "--restart {text}: unknown policy; use no, always, unless-stopped or on-failure[:times]"
        ))),
    }
}

/// Nanoseconds of `--health-interval` and the like.
pub fn parse_nanoseconds(flag: &str, text: &str) -> Result<i64> {
    time::parse_duration(text)
        .and_then(|duration: Duration| i64::try_from(duration.as_nanos()).ok())
        .ok_or_else(|| {
            Failure::new(format!(
                "{flag} {text}: no duration; write it as 1m30s or 500ms"
            ))
        })
}

/// `--storage-opt NAME=VALUE`: which there are is the daemon's to say.
pub fn parse_storage_options(texts: &[String]) -> Result<HashMap<String, String>> {
    let parse = |text: &String| match text.split_once('=') {
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => Err(Failure::new(format!(
            "--storage-opt {text}: write it as NAME=VALUE, such as size=1g"
        ))),
    };
    texts.iter().map(parse).collect()
}

/// `--security-opt`: a seccomp profile's file is read, because the daemon takes its text.
pub fn parse_security_option(text: &str) -> Result<String> {
    let (name, value) = text
        .split_once('=')
        .or_else(|| text.split_once(':'))
        .unwrap_or((text, ""));
    match (name, value) {
        ("seccomp", "unconfined" | "builtin" | "default") => Ok(format!("seccomp={value}")),
        ("seccomp", path) => {
            let profile = std::fs::read_to_string(path)
                .map_err(|error| Failure::new(format!("seccomp profile {path}: {error}")))?;
            let profile: serde_json::Value = serde_json::from_str(&profile)
                .map_err(|error| Failure::new(format!("seccomp profile {path}: {error}")))?;
            Ok(format!("seccomp={profile}"))
        }
        _ => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_in_the_apis_units() {
        assert_eq!(parse_size("--memory", "64m"), Ok(64 << 20));
        assert_eq!(parse_cpus("1.5"), Ok(1_500_000_000));
        assert_eq!(
            parse_nanoseconds("--health-interval", "1.5s"),
            Ok(1_500_000_000)
        );
        let ulimit = parse_ulimit("nofile=1024:-1").expect("ulimit");
        assert_eq!((ulimit.soft, ulimit.hard), (Some(1024), Some(-1)));
        let restart = parse_restart("on-failure:3").expect("restart");
        assert_eq!(restart.maximum_retry_count, Some(3));
        let options = parse_storage_options(&["size=1G".to_owned()]).expect("options");
        assert_eq!(options["size"], "1G");
        assert_eq!(
            parse_security_option("seccomp:unconfined"),
            Ok("seccomp=unconfined".to_owned())
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (error, part) in [
            (
                parse_size("--memory", "much").expect_err("size"),
                "--memory much",
            ),
            (parse_cpus("two").expect_err("cpus"), "--cpus two"),
            (parse_cpus("-1").expect_err("cpus"), "--cpus -1"),
            (
                parse_ulimit("nofile").expect_err("ulimit"),
                "--ulimit nofile",
            ),
            (
                parse_ulimit("nofile=2:1").expect_err("ulimit"),
                "soft at most hard",
            ),
            (
                parse_restart("sometimes").expect_err("restart"),
                "--restart sometimes",
            ),
            (
                parse_restart("always:3").expect_err("restart"),
                "--restart always:3",
            ),
            (
                parse_nanoseconds("--health-timeout", "5").expect_err("duration"),
                "--health-timeout 5",
            ),
            (
                parse_storage_options(&["1G".to_owned()]).expect_err("option"),
                "--storage-opt 1G",
            ),
            (
                parse_security_option("seccomp=/none.json").expect_err("file"),
                "/none.json: No such file",
            ),
        ] {
            assert!(error.message().contains(part), "{error}");
        }
    }
}
