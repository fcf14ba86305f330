//! What `-h` shows: of the program, and of each verb.
//!
//! Invariant: every flag of a verb has its line here (a test compares them).

use super::arguments::Flag;
use super::{checkpoint, create, delete, events, exec, features, kill, list, pause, ps, restore};
use super::{resume, run, spec, start, state, update};

/// A verb as the command line knows it.
#[derive(Debug)]
pub(super) struct Verb {
    pub(super) name: &'static str,
    /// What follows its flags.
    arguments: &'static str,
    summary: &'static str,
    pub(super) flags: &'static [Flag],
    /// Its flags end at the first argument, as the workload's own follow.
    pub(super) leading: bool,
}

const fn verb(
    name: &'static str,
    arguments: &'static str,
    summary: &'static str,
    flags: &'static [Flag],
) -> Verb {
    Verb {
        name,
        arguments,
        summary,
        flags,
        leading: false,
    }
}

const CONTAINER: &str = "CONTAINER";

#[rustfmt::skip]
pub(super) const VERBS: &[Verb] = &[
    verb("checkpoint", CONTAINER, "write the state of a running container to files (needs CRIU)", checkpoint::FLAGS),
    verb("create", CONTAINER, "make a container up to the start of its program", create::FLAGS),
    verb("delete", CONTAINER, "remove what a stopped container holds", delete::FLAGS),
    verb("events", CONTAINER, "show readings of a container's cgroup and its kills for want of memory", events::FLAGS),
    Verb { leading: true, ..verb("exec", "CONTAINER COMMAND [ARGUMENT …]", "run one more process in a container", exec::FLAGS) },
    verb("features", "", "show what this runtime carries out, as JSON", features::FLAGS),
    Verb { leading: true, ..verb("kill", "CONTAINER [SIGNAL]", "send a signal to a container's first process (TERM unless told)", kill::FLAGS) },
    verb("list", "", "show the containers below --root", list::FLAGS),
    verb("pause", CONTAINER, "stop all processes of a container", pause::FLAGS),
    Verb { leading: true, ..verb("ps", "CONTAINER [OPTION OF ps(1) …]", "show the processes of a container", ps::FLAGS) },
    verb("restore", CONTAINER, "make a container of the files of a checkpoint (needs CRIU)", restore::FLAGS),
    verb("resume", CONTAINER, "let the processes of a paused container go on", resume::FLAGS),
    verb("run", CONTAINER, "create and start a container", run::FLAGS),
    verb("spec", "", "write a config.json to begin with", spec::FLAGS),
    verb("start", CONTAINER, "let a created container's program run", start::FLAGS),
    verb("state", CONTAINER, "show a container's state, as JSON", state::FLAGS),
    verb("update", CONTAINER, "change the limits of a container", update::FLAGS),
];

pub(super) fn find(name: &str) -> Option<&'static Verb> {
    VERBS.iter().find(|verb| verb.name == name)
}

/// What each flag means; those of several verbs mean the same in all.
#[rustfmt::skip]
const MEANINGS: &[(&str, &str)] = &[
    ("additional-gids", "one more group of the process; may be repeated"),
    ("all", "send the signal to all processes; of a container that has stopped: no error"),
    ("apparmor", "the AppArmor profile of the process"),
    ("auto-dedup", "leave out of the images what the next dump has"),
    ("blkio-weight", "share of block I/O, 10 to 1000"),
    ("bundle", "the directory with config.json; the current one unless told"),
    ("cap", "one more capability of the process; may be repeated"),
    ("cgroup", "an existing cgroup below the container's, [CONTROLLER,…:]PATH; may be repeated"),
    ("console-socket", "the socket to which the master of the terminal is sent"),
    ("cpu-burst", "how much of unused quota may be used later, in µs"),
    ("cpu-idle", "1 to run only where nothing else does"),
    ("cpu-period", "the period of --cpu-quota, in µs"),
    ("cpu-quota", "CPU time in a period, in µs"),
    ("cpu-rt-period", "the period of --cpu-rt-runtime, in µs"),
    ("cpu-rt-runtime", "CPU time of real-time processes in a period, in µs"),
    ("cpu-share", "share of CPU time against other containers"),
    ("cpuset-cpus", "the CPUs that may be used, such as 0-2,4"),
    ("cpuset-mems", "the memory nodes that may be used"),
    ("criu", "ignored: CRIU is looked for in PATH"),
    ("cwd", "the working directory of the process"),
    ("debug", "log what is being done"),
    ("detach", "do not stay until the end"),
    ("empty-ns", "a namespace that is made and not filled"),
    ("env", "a variable, NAME=VALUE; may be repeated"),
    ("ext-unix-sk", "allow sockets that lead out of the container"),
    ("file-locks", "allow locks of files"),
    ("force", "kill it first if it runs; no error if there is none"),
    ("format", "table or json"),
    ("ignore-paused", "allow it in a paused container"),
    ("image-path", "the directory of the images"),
    ("interval", "the time between two readings, such as 5s or 100ms"),
    ("keep", "leave the container's state and cgroup when it has ended"),
    ("kernel-memory", "obsolete, and ignored"),
    ("kernel-memory-tcp", "obsolete, and ignored"),
    ("l3-cache-schema", "L3 cache of Intel RDT"),
    ("lazy-pages", "bring the memory when it is needed"),
    ("leave-running", "let the processes go on afterwards"),
    ("link-remap", "allow files that have been removed"),
    ("log", "the file for log lines; stderr unless told"),
    ("log-format", "text or json"),
    ("log-level", "error, warning, info (unless told), debug or trace, which shows where the time goes"),
    ("log-level", "the least level that is logged"),
    ("lsm-mount-context", "the context of mounts of the restored container"),
    ("lsm-profile", "the profile of the restored container, TYPE:NAME"),
    ("manage-cgroups-mode", "what CRIU does with cgroups: soft, full, strict or ignore"),
    ("mem-bw-schema", "memory bandwidth of Intel RDT"),
    ("memory", "limit of memory, in bytes"),
    ("memory-reservation", "what is left to it when memory is short, in bytes"),
    ("memory-swap", "limit of memory and swap together, in bytes; -1 for none"),
    ("no-new-keyring", "stay in the caller's session keyring"),
    ("no-new-privs", "no privileges by exec, such as of set-user-id programs"),
    ("no-pivot", "chroot in place of pivot_root, for a root on a ramdisk"),
    ("no-subreaper", "do not adopt the container's orphans"),
    ("page-server", "ADDRESS:PORT of the server that takes the memory"),
    ("parent-path", "the images of the dump before"),
    ("pid-file", "the file to which the process's number is written"),
    ("pidfd-socket", "the socket to which the process's pidfd is sent"),
    ("pids-limit", "limit of processes"),
    ("pre-dump", "write the memory alone and let the processes go on"),
    ("preserve-fds", "pass on this many descriptors from 3 (and after $LISTEN_FDS)"),
    ("process", "a file with the process as config.json has it, in place of COMMAND"),
    ("process-label", "the SELinux label of the process"),
    ("quiet", "identifiers alone"),
    ("resources", "a file with linux.resources as config.json has it; - for stdin"),
    ("root", "the directory with the containers' state"),
    ("rootless", "whether errors of cgroup permissions are left aside: true, false or auto"),
    ("shell-job", "allow processes of the caller's terminal"),
    ("stats", "one reading, and end"),
    ("status-fd", "the descriptor to which CRIU writes when it is ready"),
    ("systemd-cgroup", "let systemd make the cgroup; cgroupsPath is SLICE:PREFIX:NAME"),
    ("tcp-established", "allow open TCP connections"),
    ("tcp-skip-in-flight", "leave out TCP connections that are being made"),
    ("tty", "give the process a terminal"),
    ("user", "UID or UID:GID of the process"),
    ("version", "show the version"),
    ("work-path", "the directory of CRIU's files and logs"),
];

pub(super) fn of_program(program: &str, global: &[Flag]) -> String {
    let mut text = format!(
        "NAME:\n   {program} - Open Container Initiative runtime of Bulkhead\n\nUSAGE:\n   \
         {program} [global options] VERB [options] [arguments]\n\nVERBS:\n"
    );
    for verb in VERBS {
        text += &format!("   {:<12}{}\n", verb.name, verb.summary);
    }
    text += "\nGLOBAL OPTIONS:\n";
    text + &options(global)
}

pub(super) fn of_verb(program: &str, verb: &Verb) -> String {
    let options_word = if verb.flags.is_empty() {
        ""
    } else {
        " [options]"
    };
    let usage = format!("{program} {}{options_word} {}", verb.name, verb.arguments);
    let mut text = format!(
        "NAME:\n   {program} {} - {}\n\nUSAGE:\n   {}\n",
        verb.name,
        verb.summary,
        usage.trim_end()
    );
    if !verb.flags.is_empty() {
        text += "\nOPTIONS:\n";
        text += &options(verb.flags);
    }
    text
}

fn options(flags: &[Flag]) -> String {
    let mut text = String::new();
    for flag in flags {
        let mut form = format!("--{}", flag.name);
        if let Some(short) = flag.short {
            form += &format!(", -{short}");
        }
        if flag.takes_value {
            form += " VALUE";
        }
        text += &format!("   {form:<32}{}\n", meaning(flag.name).unwrap_or_default());
    }
    text
}

fn meaning(flag: &str) -> Option<&'static str> {
    let found = MEANINGS.iter().find(|(name, _)| *name == flag);
    found.map(|(_, meaning)| *meaning)
}

#[cfg(test)]
mod tests {
    use super::super::GLOBAL;
    use super::*;

    #[test]
    fn each_flag_has_a_meaning() {
        let flags = VERBS.iter().flat_map(|verb| verb.flags).chain(GLOBAL);
        for flag in flags.filter(|flag| flag.name != "help") {
            assert!(meaning(flag.name).is_some(), "--{} has none", flag.name);
        }
    }

    #[test]
    fn a_verb_shows_its_usage_and_its_flags() {
        let text = of_verb("runtime", find("kill").expect("kill"));
        assert!(text.starts_with("NAME:\n   runtime kill - "), "{text}");
        assert!(
            text.contains("runtime kill [options] CONTAINER [SIGNAL]\n"),
            "{text}"
        );
        assert!(text.contains("   --all, -a "), "{text}");
    }
}
