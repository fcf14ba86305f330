//! The attributes of a process in their decided form (config.md, "Linux Process": `scheduler`,
//! `ioPriority`, `execCPUAffinity`; config-linux.md, "Memory policy" and "Personality").

use bulkhead_model::{Error, Result};

use crate::attributes::{Attributes, IoPriority, MemoryPolicy, SCHED_DEADLINE, Schedule};

use super::config::{self, Linux, Process};

const POLICIES: [(&str, u32); 7] = [
    ("SCHED_OTHER", 0),
    ("SCHED_FIFO", SCHED_FIFO),
    ("SCHED_RR", SCHED_RR),
    ("SCHED_BATCH", 3),
    ("SCHED_ISO", 4),
    ("SCHED_IDLE", 5),
    ("SCHED_DEADLINE", SCHED_DEADLINE),
];
const SCHED_FIFO: u32 = 1;
const SCHED_RR: u32 = 2;

const SCHEDULER_FLAGS: [(&str, u64); 7] = [
    ("SCHED_FLAG_RESET_ON_FORK", 0x01),
    ("SCHED_FLAG_RECLAIM", 0x02),
    ("SCHED_FLAG_DL_OVERRUN", 0x04),
    ("SCHED_FLAG_KEEP_POLICY", 0x08),
    ("SCHED_FLAG_KEEP_PARAMS", 0x10),
    ("SCHED_FLAG_UTIL_CLAMP_MIN", 0x20),
    ("SCHED_FLAG_UTIL_CLAMP_MAX", 0x40),
];

const IO_CLASSES: [(&str, u16); 3] = [
    ("IOPRIO_CLASS_RT", 1),
    ("IOPRIO_CLASS_BE", 2),
    ("IOPRIO_CLASS_IDLE", 3),
];

/// The modes of set_mempolicy(2), sorted, with how many nodes each takes.
pub(super) const MEMORY_MODES: [(&str, i32, Nodes); 7] = [
    ("MPOL_BIND", 2, Nodes::Some),
    ("MPOL_DEFAULT", 0, Nodes::None),
    ("MPOL_INTERLEAVE", 3, Nodes::Some),
    ("MPOL_LOCAL", 4, Nodes::None),
    ("MPOL_PREFERRED", 1, Nodes::Any),
    ("MPOL_PREFERRED_MANY", 5, Nodes::Some),
    ("MPOL_WEIGHTED_INTERLEAVE", 6, Nodes::Some),
];

pub(super) const MEMORY_FLAGS: [(&str, i32); 3] = [
    ("MPOL_F_NUMA_BALANCING", 1 << 13),
    ("MPOL_F_RELATIVE_NODES", 1 << 14),
    ("MPOL_F_STATIC_NODES", 1 << 15),
];

const PERSONALITIES: [(&str, u32); 2] = [("LINUX", 0), ("LINUX32", 8)];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nodes {
    None,
    Any,
    Some,
}

/// # Errors
/// `InvalidInput` with the field.
pub(super) fn of(process: &Process, linux: &Linux) -> Result<Attributes> {
    Ok(Attributes {
        schedule: process.scheduler.as_ref().map(schedule).transpose()?,
        io_priority: process.io_priority.as_ref().map(io_priority).transpose()?,
        personality: linux.personality.as_ref().map(personality).transpose()?,
        memory_policy: linux
            .memory_policy
            .as_ref()
            .map(memory_policy)
            .transpose()?,
    })
}

fn schedule(scheduler: &config::Scheduler) -> Result<Schedule> {
    let invalid = |field: &str, message: String| {
        Error::invalid(format!("process.scheduler.{field}: {message}"))
    };
    let name = scheduler.policy.as_str();
    let policy = find(&POLICIES, name)
        .ok_or_else(|| invalid("policy", format!("invalid scheduler policy: '{name}'")))?;
    let nice = scheduler.nice.unwrap_or(0);
    if !(-20..=19).contains(&nice) {
        return Err(invalid("nice", format!("{nice} is not -20 to 19")));
    }
    let priority = scheduler.priority.unwrap_or(0);
    let is_real_time = matches!(policy, SCHED_FIFO | SCHED_RR);
    if priority != 0 && !is_real_time {
        let message = format!("{name} has none: it is for SCHED_FIFO and SCHED_RR");
        return Err(invalid("priority", message));
    }
    let priority = u32::try_from(priority)
        .ok()
        .filter(|priority| !is_real_time || (1..=99).contains(priority))
        .ok_or_else(|| invalid("priority", format!("{priority} is not 1 to 99")))?;
    let [runtime, deadline, period] = [
        ("runtime", scheduler.runtime),
        ("deadline", scheduler.deadline),
        ("period", scheduler.period),
    ]
    .map(|(field, value)| match value.unwrap_or(0) {
        0 => Ok(0),
        value if policy == SCHED_DEADLINE => Ok(value),
        _ => Err(invalid(
            field,
            format!("{name} has none: it is for SCHED_DEADLINE"),
        )),
    });
    let mut flags = 0;
    for (index, name) in scheduler.flags.iter().enumerate() {
        flags |= find(&SCHEDULER_FLAGS, name).ok_or_else(|| {
            let field = format!("flags[{index}]");
            invalid(&field, format!("invalid scheduler flag: '{name}'"))
        })?;
    }
    Ok(Schedule {
        policy,
        flags,
        nice,
        priority,
        runtime: runtime?,
        deadline: deadline?,
        period: period?,
    })
}

fn io_priority(priority: &config::IoPriority) -> Result<IoPriority> {
    let class = find(&IO_CLASSES, &priority.class).ok_or_else(|| {
        Error::invalid(format!(
            "process.ioPriority.class: '{}' is none of IOPRIO_CLASS_RT, IOPRIO_CLASS_BE and \
             IOPRIO_CLASS_IDLE",
            priority.class
        ))
    })?;
    let level = u16::try_from(priority.priority)
        .ok()
        .filter(|level| *level <= 7)
        .ok_or_else(|| {
            Error::invalid(format!(
                "process.ioPriority.priority: {} is not 0 to 7",
                priority.priority
            ))
        })?;
    Ok(IoPriority {
        class,
        priority: level,
    })
}

fn personality(personality: &config::Personality) -> Result<u32> {
    // The specification has no values for them yet.
    config::refuse("linux.personality.flags", !personality.flags.is_empty())?;
    find(&PERSONALITIES, &personality.domain).ok_or_else(|| {
        Error::invalid(format!(
            "linux.personality.domain: '{}' is none of LINUX and LINUX32",
            personality.domain
        ))
    })
}

fn memory_policy(policy: &config::MemoryPolicy) -> Result<MemoryPolicy> {
    let field = "linux.memoryPolicy";
    let name = policy.mode.as_str();
    let known = MEMORY_MODES.iter().find(|(known, _, _)| *known == name);
    let Some(&(_, mut mode, takes)) = known else {
        return Err(Error::invalid(format!(
            "{field}.mode: invalid memory policy mode '{name}'"
        )));
    };
    let nodes = bits(&policy.nodes, MAXIMUM_NODE).map_err(|error| {
        Error::invalid(format!("{field}.nodes: invalid memory policy nodes")).with_source(error)
    })?;
    let count: u32 = nodes.iter().map(|word| word.count_ones()).sum();
    match takes {
        Nodes::None if count != 0 => {
            return Err(Error::invalid(format!(
                "{field}.nodes: the mode requires 0 nodes but got {count}"
            )));
        }
        Nodes::Some if count == 0 => {
            return Err(Error::invalid(format!(
                "{field}.nodes: the mode requires at least one node but got 0"
            )));
        }
        _ => {}
    }
    for (index, name) in policy.flags.iter().enumerate() {
        mode |= find(&MEMORY_FLAGS, name).ok_or_else(|| {
            Error::invalid(format!(
                "{field}.flags[{index}]: invalid memory policy flag '{name}'"
            ))
        })?;
    }
    Ok(MemoryPolicy { mode, nodes })
}

/// More than any kernel is built for.
const MAXIMUM_NODE: u32 = 1023;
pub(super) const MAXIMUM_CPU: u32 = 8191;

/// A list such as `0-3,7` as bits, without words of zeros at the end.
///
/// # Errors
/// `InvalidInput` for what is no such list or above the maximum.
pub(super) fn bits(list: &str, maximum: u32) -> Result<Vec<u64>> {
    let number = |text: &str| -> Result<u32> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits
            .then(|| text.parse::<u32>().ok())
            .flatten()
            .filter(|number| *number <= maximum)
            .ok_or_else(|| Error::invalid(format!("'{text}' is not a number from 0 to {maximum}")))
    };
    let mut words = Vec::new();
    for part in list
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first.trim())?, number(last.trim())?),
            None => (number(part)?, number(part)?),
        };
        if first > last {
            return Err(Error::invalid(format!("'{part}' goes backwards")));
        }
        words.resize(words.len().max(last as usize / 64 + 1), 0);
        for bit in first..=last {
            words[bit as usize / 64] |= 1_u64 << (bit % 64);
        }
    }
    Ok(words)
}

fn find<T: Copy>(table: &[(&str, T)], name: &str) -> Option<T> {
    let entry = table.iter().find(|(known, _)| *known == name);
    entry.map(|(_, value)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(process: &str, linux: &str) -> Result<Attributes> {
        let process: Process = serde_json::from_str(process).expect("process");
        let linux: Linux = serde_json::from_str(linux).expect("linux");
        of(&process, &linux)
    }

    #[test]
    fn lists_are_bits() {
        for (list, expected) in [
            ("", vec![]),
            ("0", vec![1]),
            ("0-3,7", vec![0x8f]),
            ("64", vec![0, 1]),
            (" 1 , 2-2", vec![6]),
            ("127-128", vec![0, 1 << 63, 1]),
        ] {
            assert_eq!(bits(list, 1023).expect(list), expected, "{list}");
        }
        for list in ["x", "1-", "-1", "3-1", "1024", "0-9876543210", "+1", "1.5"] {
            assert!(bits(list, 1023).is_err(), "{list}");
        }
    }

    #[test]
    fn what_the_kernel_would_refuse_names_its_field() {
        for (process, part) in [
            (
                r#"{"scheduler": {"policy": "SCHED_X"}}"#,
                "scheduler.policy",
            ),
            (
                r#"{"scheduler": {"policy": "SCHED_BATCH", "nice": 20}}"#,
                "scheduler.nice",
            ),
            (
                r#"{"scheduler": {"policy": "SCHED_BATCH", "priority": 2}}"#,
                "scheduler.priority",
            ),
            (
                r#"{"scheduler": {"policy": "SCHED_RR"}}"#,
                "scheduler.priority",
            ),
            (
                r#"{"scheduler": {"policy": "SCHED_RR", "priority": -1}}"#,
                "scheduler.priority",
            ),
            (
                r#"{"scheduler": {"policy": "SCHED_IDLE", "period": 1}}"#,
                "scheduler.period",
            ),
            (
                r#"{"scheduler": {"policy": "SCHED_IDLE", "flags": ["X"]}}"#,
                "scheduler.flags[0]",
            ),
            (
                r#"{"ioPriority": {"class": "IOPRIO_CLASS_NONE"}}"#,
                "ioPriority.class",
            ),
            (
                r#"{"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 8}}"#,
                "ioPriority.priority",
            ),
        ] {
            let error = attributes(process, "{}").expect_err(process).to_string();
            assert!(error.starts_with(&format!("process.{part}: ")), "{error}");
        }
        for (linux, part) in [
            (
                r#"{"personality": {"domain": "BSD"}}"#,
                "personality.domain",
            ),
            (
                r#"{"personality": {"domain": "LINUX", "flags": ["X"]}}"#,
                "personality.flags",
            ),
            (
                r#"{"memoryPolicy": {}}"#,
                "memoryPolicy.mode: invalid memory policy mode",
            ),
            (
                r#"{"memoryPolicy": {"mode": "MPOL_BIND"}}"#,
                "memoryPolicy.nodes: the mode requires at least one",
            ),
            (
                r#"{"memoryPolicy": {"mode": "MPOL_DEFAULT", "nodes": "0-7"}}"#,
                "memoryPolicy.nodes: the mode requires 0 nodes but got 8",
            ),
            (
                r#"{"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0-9876543210"}}"#,
                "memoryPolicy.nodes: invalid memory policy node",
            ),
            (
                r#"{"memoryPolicy": {"mode": "MPOL_PREFERRED", "flags": ["X"]}}"#,
                "memoryPolicy.flags[0]: invalid memory policy flag",
            ),
        ] {
            let error = attributes("{}", linux).expect_err(linux).to_string();
            assert!(error.starts_with(&format!("linux.{part}")), "{error}");
        }
    }

    #[test]
    fn attributes_are_numbers() {
        let decided = attributes(
            r#"{"scheduler": {"policy": "SCHED_DEADLINE", "runtime": 1, "deadline": 2, "period": 3,
                              "flags": ["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_RECLAIM"]},
                "ioPriority": {"class": "IOPRIO_CLASS_IDLE"}}"#,
            r#"{"personality": {"domain": "LINUX32"},
                "memoryPolicy": {"mode": "MPOL_PREFERRED", "nodes": "1", "flags": ["MPOL_F_STATIC_NODES"]}}"#,
        )
        .expect("attributes");
        let schedule = decided.schedule.expect("schedule");
        assert_eq!((schedule.policy, schedule.flags), (6, 3));
        assert_eq!(
            (schedule.runtime, schedule.deadline, schedule.period),
            (1, 2, 3)
        );
        assert_eq!(decided.io_priority.expect("priority").class, 3);
        assert_eq!(decided.personality, Some(8));
        let policy = decided.memory_policy.expect("policy");
        assert_eq!((policy.mode, policy.nodes), (1 | 1 << 15, vec![2]));
    }
}
