//! Whatever goes wrong, and whatever is killed: nothing is left on the host.

mod injection;
mod killed;
mod scarcity;
mod watch;

use crate::support::HostScenario;

pub use watch::{Watch, watched};

pub const SCENARIOS: &[HostScenario] = &[
    (
        "a_system_call_that_fails_at_any_step_of_create_leaves_nothing",
        injection::create,
    ),
    (
        "a_system_call_that_fails_at_any_step_of_run_leaves_nothing",
        injection::run,
    ),
    (
        "five_hundred_killed_creates_leave_nothing_that_delete_does_not_remove",
        killed::creates,
    ),
    (
        "killed_runs_deletes_and_execs_leave_nothing_that_delete_does_not_remove",
        killed::other_verbs,
    ),
    (
        "a_state_directory_that_is_full_fails_the_create",
        scarcity::full_directory,
    ),
    (
        "a_state_directory_that_is_read_only_fails_aloud",
        scarcity::read_only_directory,
    ),
    (
        "too_few_descriptors_fail_the_create",
        scarcity::few_descriptors,
    ),
    (
        "too_little_memory_fails_the_create",
        scarcity::little_memory,
    ),
    (
        "a_pid_file_that_cannot_be_written_fails_the_create",
        scarcity::pid_file,
    ),
    ("deletes_at_once_do_it_once", scarcity::deletes_at_once),
    (
        "a_delete_that_meets_a_create_leaves_nothing",
        scarcity::delete_meets_create,
    ),
];
