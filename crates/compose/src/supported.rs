//! Which keys of the schema Bulkhead carries out; every other one is warned about.
//!
//! Paths are as in the schema, `*` stands for a name that the user chose. A path includes what is
//! below it only where it ends in `.**`.

const CARRIED_OUT: &[&str] = &[
    "version",
    "name",
    "services",
    "networks",
    "volumes",
    "configs",
    "secrets",
    // Reported as an error where it is read: ignoring it would change the meaning.
    "include",
    "services.*.extends.**",
    "services.*.image",
    "services.*.build",
    "services.*.build.context",
    "services.*.build.dockerfile",
    "services.*.build.dockerfile_inline",
    "services.*.build.args",
    "services.*.build.target",
    "services.*.build.labels",
    "services.*.build.tags",
    "services.*.build.no_cache",
    "services.*.command",
    "services.*.entrypoint",
    "services.*.environment",
    "services.*.env_file.**",
    "services.*.ports",
    "services.*.ports.host_ip",
    "services.*.ports.target",
    "services.*.ports.published",
    "services.*.ports.protocol",
    // Say nothing that changes what happens on one machine.
    "services.*.ports.name",
    "services.*.ports.mode",
    "services.*.ports.app_protocol",
    "services.*.expose",
    "services.*.volumes",
    "services.*.volumes.type",
    "services.*.volumes.source",
    "services.*.volumes.target",
    "services.*.volumes.read_only",
    "services.*.volumes.bind",
    "services.*.volumes.bind.create_host_path",
    "services.*.volumes.volume",
    "services.*.volumes.volume.nocopy",
    "services.*.volumes.volume.subpath",
    "services.*.volumes.tmpfs.**",
    "services.*.networks",
    "services.*.networks.*.aliases",
    "services.*.networks.*.ipv4_address",
    "services.*.networks.*.priority",
    "services.*.networks.*.gw_priority",
    "services.*.network_mode",
    "services.*.depends_on.**",
    "services.*.healthcheck.**",
    "services.*.restart",
    "services.*.labels",
    "services.*.user",
    "services.*.working_dir",
    "services.*.deploy",
    "services.*.deploy.replicas",
    "services.*.deploy.labels",
    "services.*.deploy.resources",
    "services.*.deploy.resources.limits.**",
    "services.*.deploy.resources.reservations",
    "services.*.deploy.resources.reservations.cpus",
    "services.*.deploy.resources.reservations.memory",
    "services.*.scale",
    "services.*.mem_limit",
    "services.*.mem_reservation",
    "services.*.memswap_limit",
    "services.*.cpus",
    "services.*.cpu_shares",
    "services.*.cpuset",
    "services.*.pids_limit",
    "services.*.runtime",
    "services.*.profiles",
    "services.*.container_name",
    "services.*.hostname",
    "services.*.tty",
    "services.*.stdin_open",
    "services.*.read_only",
    "services.*.tmpfs",
    "services.*.shm_size",
    "services.*.storage_opt",
    "services.*.ulimits.**",
    "services.*.cap_add",
    "services.*.cap_drop",
    "services.*.privileged",
    "services.*.security_opt",
    "services.*.init",
    "services.*.sysctls",
    "services.*.stop_signal",
    "services.*.stop_grace_period",
    "services.*.extra_hosts",
    "services.*.dns",
    "services.*.pull_policy",
    "services.*.oom_score_adj",
    "services.*.configs",
    "services.*.configs.source",
    "services.*.configs.target",
    "services.*.secrets",
    "services.*.secrets.source",
    "services.*.secrets.target",
    "networks.*.name",
    "networks.*.driver",
    "networks.*.internal",
    "networks.*.external.**",
    "networks.*.labels",
    "networks.*.ipam",
    "networks.*.ipam.config",
    "networks.*.ipam.config.subnet",
    "networks.*.ipam.config.gateway",
    // What Bulkhead's networks are anyway.
    "networks.*.attachable",
    "networks.*.enable_ipv4",
    "volumes.*.name",
    "volumes.*.driver",
    "volumes.*.external.**",
    "volumes.*.labels",
    "configs.*.name",
    "configs.*.file",
    "configs.*.content",
    "configs.*.environment",
    "configs.*.external.**",
    "secrets.*.name",
    "secrets.*.file",
    "secrets.*.environment",
    "secrets.*.external.**",
];

pub(crate) fn is_carried_out(path: &str) -> bool {
    CARRIED_OUT
        .iter()
        .any(|entry| match entry.strip_suffix(".**") {
            Some(prefix) => path
                .strip_prefix(prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.')),
            None => *entry == path,
        })
}

/// What to write instead of a key that is not carried out.
pub(crate) fn remedy(path: &str) -> Option<&'static str> {
    Some(match path {
        "services.*.links" => "services reach each other by name without it",
        "services.*.platform" => "images are built and run for this machine's platform",
        "services.*.deploy.restart_policy" => "use 'restart'",
        "services.*.logging" => "logs are kept by Bulkhead; see 'bulkhead logs'",
        "services.*.cpu_quota" | "services.*.cpu_count" | "services.*.cpu_percent" => "use 'cpus'",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_is_one_of_the_schema() {
        let known = crate::schema::all_paths();
        for entry in CARRIED_OUT {
            let path = entry.strip_suffix(".**").unwrap_or(entry);
            assert!(known.contains(path), "{path} is not in the schema");
        }
    }
}
