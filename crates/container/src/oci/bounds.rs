//! Values of a configuration that have the right type, and still mean nothing to the kernel or
//! something else than they say. What one field alone decides is checked here, before anything
//! is made; what several decide together, in `plan`.

use std::collections::BTreeSet;

use bulkhead_model::{Error, Result};

use super::config::{Config, Process};

/// The kernel's `__NEW_UTS_LEN`.
const LONGEST_HOST_NAME: usize = 64;

/// # Errors
/// `InvalidInput` with the field.
pub(super) fn check(config: &Config) -> Result<()> {
    for (field, name) in [
        ("hostname", &config.hostname),
        ("domainname", &config.domainname),
    ] {
        if name.len() > LONGEST_HOST_NAME {
            return Err(Error::invalid(format!(
                "{field}: it has {} bytes, and the kernel takes {LONGEST_HOST_NAME}",
                name.len()
            )));
        }
        check_text(field, name)?;
    }
    for (index, mount) in config.mounts.iter().enumerate() {
        let field = format!("mounts[{index}].destination");
        if mount.destination.is_empty() {
            return Err(Error::invalid(format!("{field}: it is empty")));
        }
        check_text(&field, &mount.destination)?;
    }
    for (index, namespace) in config.linux.namespaces.iter().enumerate() {
        let path = namespace.path.as_deref().unwrap_or_default();
        if !path.is_empty() && !path.starts_with('/') {
            return Err(Error::invalid(format!(
                "linux.namespaces[{index}].path: '{path}' is not absolute"
            )));
        }
    }
    Ok(())
}

/// The same for a process, which may be one of `exec`.
///
/// # Errors
/// `InvalidInput` with the field.
pub(super) fn check_process(process: &Process) -> Result<()> {
    for (index, variable) in process.env.iter().enumerate() {
        let field = format!("process.env[{index}]");
        check_text(&field, variable)?;
        let why = match variable.find('=') {
            None => "missing '='",
            Some(0) => "name cannot be empty",
            Some(_) => continue,
        };
        return Err(Error::invalid(format!(
            "{field}: invalid environment variable '{variable}': {why}"
        )));
    }
    for (index, argument) in process.args.iter().enumerate() {
        check_text(&format!("process.args[{index}]"), argument)?;
    }
    check_text("process.cwd", &process.cwd)?;
    let user = &process.user;
    check_id("process.user.uid", user.uid)?;
    check_id("process.user.gid", user.gid)?;
    for (index, gid) in user.additional_gids.iter().enumerate() {
        check_id(&format!("process.user.additionalGids[{index}]"), *gid)?;
    }
    if let Some(umask) = user.umask.filter(|umask| *umask > 0o777) {
        return Err(Error::invalid(format!(
            "process.user.umask: {umask} is not 0 to 511, which is octal 777"
        )));
    }
    if let Some(score) = process.oom_score_adj
        && !(-1000..=1000).contains(&score)
    {
        return Err(Error::invalid(format!(
            "process.oomScoreAdj: {score} is not -1000 to 1000"
        )));
    }
    // An error of its own in the specification (config.md, "POSIX process").
    let mut kinds = BTreeSet::new();
    for (index, limit) in process.rlimits.iter().enumerate() {
        if !kinds.insert(&limit.kind) {
            return Err(Error::invalid(format!(
                "process.rlimits[{index}].type: '{}' is there twice",
                limit.kind
            )));
        }
    }
    Ok(())
}

/// 2^32-1 means "unchanged" to the kernel, which would leave the process what the runtime is.
fn check_id(field: &str, id: u32) -> Result<()> {
    if id == u32::MAX {
        return Err(Error::invalid(format!("{field}: {id} is nobody's number")));
    }
    Ok(())
}

fn check_text(field: &str, text: &str) -> Result<()> {
    if text.contains('\0') {
        return Err(Error::invalid(format!(
            "{field}: {text:?} contains a NUL byte"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::config;
    use super::*;

    #[test]
    fn the_field_is_named() {
        for (text, part) in [
            (
                r#""hostname": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa""#,
                "hostname: it has 65 bytes",
            ),
            (r#""domainname": "a\u0000b""#, "domainname"),
            (
                r#""mounts": [{"destination": "/x"}, {"destination": ""}]"#,
                "mounts[1].destination: it is empty",
            ),
            (
                r#""linux": {"namespaces": [{"type": "pid", "path": "ns"}]}"#,
                "linux.namespaces[0].path: 'ns'",
            ),
        ] {
            let text = format!(r#"{{"ociVersion": "1.2.0", {text}}}"#);
            let config: Config = config::parse(&text, "config.json").expect(&text);
            let error = check(&config).expect_err(&text).to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn the_field_of_a_process_is_named() {
        for (text, part) in [
            (r#"{"env": ["A=1", "B"]}"#, "process.env[1]"),
            (r#"{"env": ["=1"]}"#, "name cannot be empty"),
            (r#"{"args": ["a", "b\u0000"]}"#, "process.args[1]"),
            (r#"{"cwd": "/\u0000"}"#, "process.cwd"),
            (r#"{"user": {"uid": 4294967295}}"#, "process.user.uid"),
            (r#"{"user": {"gid": 4294967295}}"#, "process.user.gid"),
            (
                r#"{"user": {"additionalGids": [1, 4294967295]}}"#,
                "process.user.additionalGids[1]",
            ),
            (r#"{"user": {"umask": 512}}"#, "process.user.umask"),
            (r#"{"oomScoreAdj": -1001}"#, "process.oomScoreAdj"),
            (
                r#"{"rlimits": [{"type": "RLIMIT_CPU", "soft": 1, "hard": 1},
                                {"type": "RLIMIT_CPU", "soft": 1, "hard": 1}]}"#,
                "process.rlimits[1].type: 'RLIMIT_CPU'",
            ),
        ] {
            let process: Process = config::parse(text, "process").expect(text);
            let error = check_process(&process).expect_err(text).to_string();
            assert!(error.contains(part), "{error}");
        }
        let text = r#"{"env": ["A="], "user": {"umask": 511, "gid": 4294967294}}"#;
        check_process(&config::parse(text, "process").expect(text)).expect(text);
    }
}
