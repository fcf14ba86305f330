//! What a process of the host uses, from procfs.

use std::fs;
use std::io;
use std::time::Duration;

use bulkhead_model::{ByteSize, Stats};

/// Reads everything but the number of processes and the limit.
pub(crate) fn of_process(pid: u32) -> io::Result<Stats> {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}"));
    let (user, system) = cpu_ticks(&read("stat")?)
        .ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat is of an unknown form")))?;
    let tick = Duration::from_secs(1) / rustix::param::clock_ticks_per_second() as u32;
    let status = read("status")?;
    // The guest's memory is anonymous or shared memory of the monitor; its program text is the
    // page cache's, which all guests have in common.
    let kibibytes = field(&status, "RssAnon:") + field(&status, "RssShmem:");
    // Absent where the kernel keeps no account of I/O.
    let io = read("io").unwrap_or_default();
    let (cpu_user, cpu_system) = (tick * user as u32, tick * system as u32);
    Ok(Stats {
        cpu: cpu_user + cpu_system,
        cpu_user,
        cpu_system,
        memory: ByteSize(kibibytes << 10),
        memory_limit: None,
        pids: 0,
        block_read: ByteSize(field(&io, "read_bytes:")),
        block_written: ByteSize(field(&io, "write_bytes:")),
    })
}

/// Fields 14 and 15 of `proc_pid_stat(5)`. The second field may contain anything, so that fields
/// are counted from its closing parenthesis.
fn cpu_ticks(stat: &str) -> Option<(u64, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// The number after the name at the start of a line; 0 where there is none.
fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| {
            line.strip_prefix(name)?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_is_no_trap() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 111 222 0 0";
        assert_eq!(cpu_ticks(stat), Some((111, 222)));
        assert_eq!(cpu_ticks("garbage"), None);
    }

    #[test]
    fn our_own_process_has_memory() {
        let stats = of_process(std::process::id()).unwrap();
        assert!(stats.memory.bytes() > 0);
    }
}
