//! What a runtime must survive: one scenario for each known way out of a container, named after
//! it, over the command line, and over the backend where that has code of its own.
//! `docs/checklist.md` says which guard each of them holds to account.

mod binary;
mod descriptors;
mod enforcement;
mod exec;
mod paths;
mod procfs;
mod terminal;

use crate::support::HostScenario;

pub use binary::linger;

pub const SCENARIOS: &[HostScenario] = &[
    (
        "cve_2019_5736_the_runtimes_binary_cannot_be_overwritten_at_create",
        binary::at_create,
    ),
    (
        "cve_2019_5736_the_runtimes_binary_cannot_be_overwritten_at_exec",
        binary::at_exec,
    ),
    (
        "cve_2024_21626_no_descriptor_of_the_callers_is_a_working_directory",
        descriptors::working_directory,
    ),
    (
        "cve_2024_21626_a_workload_has_its_three_streams_alone",
        descriptors::of_the_workload,
    ),
    (
        "cve_2025_31133_a_masked_path_is_covered_by_the_null_device_alone",
        paths::decoy_null,
    ),
    (
        "cve_2025_52565_the_console_is_bound_where_no_link_leads",
        terminal::console,
    ),
    (
        "cve_2025_52565_the_console_cannot_be_exchanged_meanwhile",
        terminal::exchanged_console,
    ),
    (
        "cve_2025_52565_a_terminal_comes_from_a_real_devpts",
        terminal::decoy_devpts,
    ),
    (
        "cve_2025_52881_a_sysctl_is_written_to_no_decoy",
        procfs::sysctl,
    ),
    ("cve_2025_52881_exec_writes_to_no_decoy", procfs::exec),
    (
        "cve_2025_52881_exec_of_the_backend_writes_to_no_decoy",
        procfs::exec_of_the_backend,
    ),
    (
        "cve_2019_19921_proc_in_the_image_is_no_link",
        procfs::linked_proc,
    ),
    (
        "cve_2019_16884_nothing_is_mounted_inside_proc",
        procfs::mount_inside,
    ),
    (
        "cve_2026_41579_dev_in_the_image_is_a_link",
        paths::linked_dev,
    ),
    (
        "cve_2024_45310_a_destination_stays_inside_the_root",
        paths::destinations,
    ),
    (
        "cve_2024_45310_a_destination_exchanged_meanwhile_stays_inside",
        paths::exchanged_destination,
    ),
    (
        "cve_2022_27650_exec_adds_no_inheritable_capability",
        exec::capabilities,
    ),
    ("cve_2026_30892_odd_users_at_exec", exec::odd_users),
    ("cve_2026_30892_nobodys_number_is_refused", exec::nobody),
    (
        "a_filter_that_cannot_be_installed_fails_the_start",
        enforcement::filter,
    ),
    (
        "a_device_policy_that_cannot_be_enforced_fails_the_create",
        enforcement::devices,
    ),
    (
        "a_limit_that_cannot_be_enforced_fails_the_create",
        enforcement::limits,
    ),
    (
        "privileges_that_cannot_be_dropped_fail_the_start",
        enforcement::privileges,
    ),
];
