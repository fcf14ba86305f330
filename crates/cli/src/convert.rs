//! From a Compose project to what the daemon is asked for: a create request for each service, and
//! the networks and volumes that they use.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::Duration;

use bulkhead_api::bulkhead::{
    Dependency, DependencyCondition, NetworkSpec, ProjectSpec, ServiceNetwork, ServiceSpec,
    VolumeSpec,
};
use bulkhead_api::docker::{
    ContainerCreateBody, EndpointIpamConfig, EndpointSettings, HealthConfig, HostConfig, Mount,
    MountBindOptions, MountTmpfsOptions, MountTypeEnum, MountVolumeOptions, NetworkingConfig,
    ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum, labels,
};
use bulkhead_compose::{
    FileMount, FileObject, FileSource, Healthcheck, Project, Service, ServiceMount,
    ServiceNetworkMode,
};
use sha2::{Digest, Sha256};

use crate::failure::{Failure, Result};
use crate::flags::limits::parse_security_option;
use crate::flags::mounts::parse_tmpfs;
use crate::flags::ports::Ports;
use crate::project::file_names;

/// The image of a service; one that is only built is named after project and service.
pub fn image_name(project: &Project, service: &Service) -> String {
    match &service.image {
        Some(image) => image.clone(),
        None => format!("{}-{}", project.name, service.name),
    }
}

/// What the daemon is asked for. `image_ids` has the id of each image that is here, by the name
/// that [`image_name`] gives: a service whose image was built anew gets new sandboxes.
///
/// # Errors
/// Names what the project asks for and cannot be had.
pub fn project_spec(
    project: &Project,
    image_ids: &BTreeMap<String, String>,
) -> Result<ProjectSpec> {
    let networks = project.networks.iter().map(|(key, network)| NetworkSpec {
        key: key.clone(),
        name: network.name.clone(),
        internal: network.internal,
        external: network.external,
        subnet: network.subnet.map(|subnet| subnet.to_string()),
        labels: own_labels(project, &network.labels, (labels::NETWORK, key)),
    });
    let volumes = project.volumes.iter().map(|(key, volume)| VolumeSpec {
        key: key.clone(),
        name: volume.name.clone(),
        external: volume.external,
        labels: own_labels(project, &volume.labels, (labels::VOLUME, key)),
    });
    let services = project
        .services
        .values()
        .map(|service| service_spec(project, service, image_ids));
    Ok(ProjectSpec {
        name: project.name.clone(),
        working_directory: project.directory.to_string_lossy().into_owned(),
        config_files: file_names(&project.files),
        networks: networks.collect(),
        volumes: volumes.collect(),
        services: services.collect::<Result<_>>()?,
    })
}

fn own_labels(
    project: &Project,
    given: &BTreeMap<String, String>,
    (name, key): (&str, &str),
) -> BTreeMap<String, String> {
    let mut all = given.clone();
    all.insert(labels::PROJECT.to_owned(), project.name.clone());
    all.insert(name.to_owned(), key.to_owned());
    all
}

fn service_spec(
    project: &Project,
    service: &Service,
    image_ids: &BTreeMap<String, String>,
) -> Result<ServiceSpec> {
    let depends_on = service
        .depends_on
        .iter()
        .map(|(name, dependency)| Dependency {
            service: name.clone(),
            condition: match dependency.condition {
                bulkhead_compose::DependencyCondition::Started => DependencyCondition::Started,
                bulkhead_compose::DependencyCondition::Healthy => DependencyCondition::Healthy,
                bulkhead_compose::DependencyCondition::CompletedSuccessfully => {
                    DependencyCondition::CompletedSuccessfully
                }
            },
            required: dependency.required,
            restart: dependency.restart,
        });
    let networks = service.networks.iter().map(|network| ServiceNetwork {
        key: network.network.clone(),
        aliases: network.aliases.clone(),
        ipv4_address: network.ipv4_address.map(|address| address.to_string()),
    });
    let image = image_name(project, service);
    let config_hash = config_hash(project, service, image_ids.get(&image));
    Ok(ServiceSpec {
        name: service.name.clone(),
        container: create_body(project, service, image, &config_hash)
            .map_err(|failure| Failure::new(format!("service '{}': {failure}", service.name)))?,
        container_name: service.container_name.clone(),
        replicas: service.deploy.replicas,
        depends_on: depends_on.collect(),
        config_hash,
        stop_grace_period_seconds: service.stop_grace_period.map(whole_seconds),
        networks: match service.network_mode {
            Some(_) => Vec::new(),
            None => networks.collect(),
        },
    })
}

fn config_hash(project: &Project, service: &Service, image_id: Option<&String>) -> String {
    let of_file = project.config_hash(&service.name).unwrap_or_default();
    let mut hasher = Sha256::new();
    hasher.update(of_file);
    hasher.update(image_id.map_or("", String::as_str));
    let digest = hasher.finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Rounded up, so that a grace period below a second is one.
fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

fn create_body(
    project: &Project,
    service: &Service,
    image: String,
    config_hash: &str,
) -> Result<ContainerCreateBody> {
    let mut ports = Ports::default();
    for port in &service.expose {
        ports
            .exposed
            .entry(format!("{}/{}", port.port, port.protocol))
            .or_default();
    }
    for port in &service.ports {
        let host_port = match port.published {
            None => String::new(),
            Some((first, last)) if first == last => first.to_string(),
            Some((first, last)) => format!("{first}-{last}"),
        };
        let address = port.host_ip.map(|address| address.to_string());
        ports.bind(
            port.target,
            &port.protocol.to_string(),
            &address.unwrap_or_default(),
            host_port,
        );
    }
    let environment = service.environment.iter();
    let environment: Vec<String> = environment
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let mut all_labels: HashMap<String, String> = service
        .labels
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    for (name, value) in [
        (labels::PROJECT, project.name.as_str()),
        (labels::SERVICE, service.name.as_str()),
        (labels::CONFIG_HASH, config_hash),
        (labels::ONEOFF, "False"),
        (
            labels::WORKING_DIRECTORY,
            &project.directory.to_string_lossy(),
        ),
        (labels::CONFIG_FILES, &file_names(&project.files).join(",")),
    ] {
        all_labels.insert(name.to_owned(), value.to_owned());
    }
    Ok(ContainerCreateBody {
        hostname: service.hostname.clone(),
        user: service.user.clone(),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        exposed_ports: (!ports.exposed.is_empty()).then(|| ports.exposed.clone()),
        tty: Some(service.tty),
        open_stdin: Some(service.stdin_open),
        env: Some(environment),
        cmd: service.command.clone(),
        // Docker clears the image's entrypoint by one empty word.
        entrypoint: service
            .entrypoint
            .as_ref()
            .map(|words| match words.is_empty() {
                true => vec![String::new()],
                false => words.clone(),
            }),
        healthcheck: service.healthcheck.as_ref().map(healthcheck),
        image: Some(image),
        working_dir: service.working_dir.clone(),
        labels: Some(all_labels),
        stop_signal: service.stop_signal.clone(),
        stop_timeout: service
            .stop_grace_period
            .map(|period| whole_seconds(period) as i64),
        networking_config: networking(project, service),
        host_config: Some(host_config(project, service, ports)?),
        ..ContainerCreateBody::default()
    })
}

fn healthcheck(check: &Healthcheck) -> HealthConfig {
    if check.disable {
        return HealthConfig {
            test: Some(vec!["NONE".to_owned()]),
            ..HealthConfig::default()
        };
    }
    let nanoseconds = |duration: Option<Duration>| duration.map(|time| time.as_nanos() as i64);
    HealthConfig {
        test: check.test.as_ref().map(|test| test.to_docker()),
        interval: nanoseconds(check.interval),
        timeout: nanoseconds(check.timeout),
        retries: check.retries.map(i64::from),
        start_period: nanoseconds(check.start_period),
        start_interval: nanoseconds(check.start_interval),
    }
}

fn networking(project: &Project, service: &Service) -> Option<NetworkingConfig> {
    if service.network_mode.is_some() {
        return None;
    }
    let endpoints = service.networks.iter().filter_map(|attachment| {
        let network = project.networks.get(&attachment.network)?;
        let mut aliases = vec![service.name.clone()];
        aliases.extend(attachment.aliases.iter().cloned());
        let address = attachment.ipv4_address.map(|address| EndpointIpamConfig {
            ipv4_address: Some(address.to_string()),
            ..EndpointIpamConfig::default()
        });
        let endpoint = EndpointSettings {
            aliases: Some(aliases),
            ipam_config: address,
            ..EndpointSettings::default()
        };
        Some((network.name.clone(), endpoint))
    });
    Some(NetworkingConfig {
        endpoints_config: Some(endpoints.collect()),
    })
}

fn host_config(project: &Project, service: &Service, ports: Ports) -> Result<HostConfig> {
    let limits = &service.deploy.resources.limits;
    let reservations = &service.deploy.resources.reservations;
    let bytes = |size: bulkhead_model::ByteSize| size.bytes() as i64;
    let mut mounts = Vec::new();
    for mount in &service.volumes {
        mounts.push(volume_mount(project, mount));
    }
    mounts.extend(file_mounts("config", &service.configs, &project.configs)?);
    mounts.extend(file_mounts("secret", &service.secrets, &project.secrets)?);
    let network_mode = match service.network_mode {
        Some(ServiceNetworkMode::None) => Some("none".to_owned()),
        Some(ServiceNetworkMode::Host) => Some("host".to_owned()),
        None => service
            .networks
            .first()
            .and_then(|first| project.networks.get(&first.network))
            .map(|network| network.name.clone()),
    };
    let ulimits = service
        .ulimits
        .iter()
        .map(|(name, range)| ResourcesUlimits {
            name: Some(name.clone()),
            soft: Some(ulimit(range.soft)),
            hard: Some(ulimit(range.hard)),
        });
    let security = service.security_opt.iter();
    let security = security.map(|option| parse_security_option(option));
    let hosts = service.extra_hosts.iter();
    let hosts = hosts.map(|(name, address)| format!("{name}:{address}"));
    Ok(HostConfig {
        runtime: Some(service.kind.to_string()),
        port_bindings: (!ports.bindings.is_empty()).then_some(ports.bindings),
        restart_policy: Some(restart_policy(service)),
        network_mode,
        mounts: (!mounts.is_empty()).then_some(mounts),
        tmpfs: match service.tmpfs.is_empty() {
            true => None,
            false => Some(parse_tmpfs(&service.tmpfs)?),
        },
        memory: limits.memory.map(bytes),
        nano_cpus: limits.cpu_millis.map(|millis| millis as i64 * 1_000_000),
        pids_limit: limits.pids.map(|pids| pids as i64),
        memory_reservation: reservations.memory.map(bytes),
        memory_swap: service.memory_swap_limit.map(bytes),
        cpu_shares: service.cpu_shares.map(|shares| shares as i64),
        cpuset_cpus: service.cpuset.clone(),
        oom_score_adj: service.oom_score_adj.map(i64::from),
        shm_size: service.shm_size.map(bytes),
        ulimits: list(ulimits.collect()),
        cap_add: list(service.cap_add.clone()),
        cap_drop: list(service.cap_drop.clone()),
        privileged: Some(service.privileged),
        readonly_rootfs: Some(service.read_only),
        security_opt: list(security.collect::<Result<Vec<_>>>()?),
        init: service.init.then_some(true),
        sysctls: match service.sysctls.is_empty() {
            true => None,
            false => Some(service.sysctls.clone().into_iter().collect()),
        },
        extra_hosts: list(hosts.collect()),
        dns: list(
            service
                .dns
                .iter()
                .map(|address| address.to_string())
                .collect(),
        ),
        ..HostConfig::default()
    })
}

fn list<T>(items: Vec<T>) -> Option<Vec<T>> {
    (!items.is_empty()).then_some(items)
}

/// Docker writes "no limit" as -1.
fn ulimit(limit: u64) -> i64 {
    i64::try_from(limit).unwrap_or(-1)
}

fn restart_policy(service: &Service) -> RestartPolicy {
    let (name, times) = match service.restart {
        bulkhead_compose::RestartPolicy::No => (RestartPolicyNameEnum::NO, None),
        bulkhead_compose::RestartPolicy::Always => (RestartPolicyNameEnum::ALWAYS, None),
        bulkhead_compose::RestartPolicy::UnlessStopped => {
            (RestartPolicyNameEnum::UNLESS_STOPPED, None)
        }
        bulkhead_compose::RestartPolicy::OnFailure(times) => {
            (RestartPolicyNameEnum::ON_FAILURE, times)
        }
    };
    RestartPolicy {
        name: Some(name),
        maximum_retry_count: times.map(i64::from),
    }
}

fn volume_mount(project: &Project, mount: &ServiceMount) -> Mount {
    match mount {
        ServiceMount::Bind {
            source,
            target,
            read_only,
            options,
        } => Mount {
            bind_options: Some(MountBindOptions {
                create_mountpoint: Some(options.create_host_path),
                ..MountBindOptions::default()
            }),
            ..bind(source, target, *read_only)
        },
        ServiceMount::Volume {
            source,
            target,
            read_only,
            options,
        } => Mount {
            typ: Some(MountTypeEnum::VOLUME),
            source: source.as_ref().map(|key| match project.volumes.get(key) {
                Some(volume) => volume.name.clone(),
                None => key.clone(),
            }),
            target: Some(target.clone()),
            read_only: Some(*read_only),
            volume_options: (options.nocopy || options.subpath.is_some()).then(|| {
                MountVolumeOptions {
                    no_copy: Some(options.nocopy),
                    subpath: options.subpath.clone(),
                    ..MountVolumeOptions::default()
                }
            }),
            ..Mount::default()
        },
        ServiceMount::Tmpfs { target, options } => Mount {
            typ: Some(MountTypeEnum::TMPFS),
            target: Some(target.clone()),
            tmpfs_options: Some(MountTmpfsOptions {
                size_bytes: options.size.map(|size| size.bytes() as i64),
                mode: options.mode.map(i64::from),
                ..MountTmpfsOptions::default()
            }),
            ..Mount::default()
        },
    }
}

fn bind(source: &Path, target: &str, read_only: bool) -> Mount {
    Mount {
        typ: Some(MountTypeEnum::BIND),
        source: Some(source.to_string_lossy().into_owned()),
        target: Some(target.to_owned()),
        read_only: Some(read_only),
        ..Mount::default()
    }
}

/// Configs and secrets are files of the host, bound read-only.
fn file_mounts(
    what: &str,
    mounts: &[FileMount],
    objects: &BTreeMap<String, FileObject>,
) -> Result<Vec<Mount>> {
    let convert = |mount: &FileMount| match objects.get(&mount.source).map(|object| &object.source)
    {
        Some(FileSource::File(path)) => Ok(bind(path, &mount.target, true)),
        Some(_) => Err(Failure::new(format!(
            "{what} '{}' has no file: only 'file:' is carried out so far; \
                 write its content to a file and name that",
            mount.source
        ))),
        None => Err(Failure::new(format!(
            "{what} '{}' is not defined",
            mount.source
        ))),
    };
    mounts.iter().map(convert).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_compose::LoadOptions;

    const COMPOSE: &str = r#"
name: shop
services:
  web:
    build: .
    runtime: microvm
    command: ["serve", "--fast"]
    entrypoint: []
    environment: {B: "2", A: "1"}
    ports: ["127.0.0.1:8080:80", "9000-9001:9000-9001"]
    expose: ["7000"]
    depends_on:
      db: {condition: service_healthy, restart: true}
    networks: {front: {aliases: [www]}, back: {}}
    deploy:
      replicas: 2
      resources: {limits: {memory: 64m, cpus: "0.5", pids: 100}}
    stop_grace_period: 1500ms
    ulimits: {nofile: {soft: 10, hard: 20}}
    security_opt: ["seccomp:unconfined"]
    tmpfs: ["/run:size=1m"]
  db:
    image: postgres:15
    volumes: ["data:/var/lib/postgresql", "./conf:/etc/conf:ro", "/scratch"]
    restart: on-failure:3
    healthcheck: {test: "pg_isready", interval: 1s, retries: 5}
    labels: {own: "yes"}
    container_name: the-db
    network_mode: host
volumes: {data: {}}
networks: {front: {}, back: {internal: true, ipam: {config: [{subnet: 10.9.0.0/24}]}}}
"#;

    fn load(text: &str) -> (tempfile::TempDir, Project) {
        let directory = tempfile::tempdir().expect("directory");
        let file = directory.path().join("compose.yaml");
        std::fs::write(&file, text).expect("write");
        std::fs::write(directory.path().join("Dockerfile"), "FROM scratch\n").expect("write");
        let loaded = bulkhead_compose::load(LoadOptions {
            files: vec![file],
            ..LoadOptions::default()
        });
        let project = loaded.unwrap_or_else(|error| panic!("{error}")).project;
        (directory, project)
    }

    fn spec(image_ids: &BTreeMap<String, String>) -> (tempfile::TempDir, ProjectSpec) {
        let (directory, project) = load(COMPOSE);
        (
            directory,
            project_spec(&project, image_ids).expect("specification"),
        )
    }

    #[test]
    fn a_service_becomes_a_create_request() {
        let (_directory, spec) = spec(&BTreeMap::new());
        let web = spec
            .services
            .iter()
            .find(|one| one.name == "web")
            .expect("web");
        assert_eq!(web.replicas, 2);
        assert_eq!(web.stop_grace_period_seconds, Some(2));
        assert_eq!(
            web.depends_on,
            [Dependency {
                service: "db".into(),
                condition: DependencyCondition::Healthy,
                required: true,
                restart: true,
            }]
        );
        let body = &web.container;
        assert_eq!(body.image.as_deref(), Some("shop-web"));
        assert_eq!(body.cmd, Some(vec!["serve".into(), "--fast".into()]));
        assert_eq!(body.entrypoint, Some(vec![String::new()]));
        assert_eq!(body.env, Some(vec!["A=1".into(), "B=2".into()]));
        let exposed = body.exposed_ports.as_ref().expect("exposed ports");
        let mut exposed: Vec<&str> = exposed.keys().map(String::as_str).collect();
        exposed.sort_unstable();
        assert_eq!(exposed, ["7000/tcp", "80/tcp", "9000/tcp", "9001/tcp"]);

        let host = body.host_config.as_ref().expect("host configuration");
        assert_eq!(host.runtime.as_deref(), Some("microvm"));
        assert_eq!(host.memory, Some(64 << 20));
        assert_eq!(host.nano_cpus, Some(500_000_000));
        assert_eq!(host.pids_limit, Some(100));
        assert_eq!(host.security_opt, Some(vec!["seccomp=unconfined".into()]));
        assert_eq!(host.tmpfs.as_ref().expect("tmpfs")["/run"], "size=1m");
        let binding = &host.port_bindings.as_ref().expect("bindings")["80/tcp"];
        let binding = &binding.as_ref().expect("binding")[0];
        assert_eq!(binding.host_ip.as_deref(), Some("127.0.0.1"));
        assert_eq!(binding.host_port.as_deref(), Some("8080"));
    }

    #[test]
    fn networks_have_the_services_names_and_their_own() {
        let (_directory, spec) = spec(&BTreeMap::new());
        let back = spec
            .networks
            .iter()
            .find(|one| one.key == "back")
            .expect("back");
        assert_eq!((back.name.as_str(), back.internal), ("shop_back", true));
        assert_eq!(back.subnet.as_deref(), Some("10.9.0.0/24"));
        assert_eq!(back.labels[labels::NETWORK], "back");

        let web = spec
            .services
            .iter()
            .find(|one| one.name == "web")
            .expect("web");
        let endpoints = web.container.networking_config.clone().expect("networking");
        let endpoints = endpoints.endpoints_config.expect("endpoints");
        let aliases = endpoints["shop_front"].aliases.clone().expect("aliases");
        assert_eq!(aliases, ["web", "www"]);

        let db = spec
            .services
            .iter()
            .find(|one| one.name == "db")
            .expect("db");
        assert!(db.networks.is_empty() && db.container.networking_config.is_none());
        let host = db
            .container
            .host_config
            .as_ref()
            .expect("host configuration");
        assert_eq!(host.network_mode.as_deref(), Some("host"));
    }

    #[test]
    fn volumes_labels_and_checks() {
        let (directory, spec) = spec(&BTreeMap::new());
        let db = spec
            .services
            .iter()
            .find(|one| one.name == "db")
            .expect("db");
        assert_eq!(db.container_name.as_deref(), Some("the-db"));
        let host = db
            .container
            .host_config
            .as_ref()
            .expect("host configuration");
        let mounts = host.mounts.as_ref().expect("mounts");
        let mount = |target: &str| {
            let found = mounts
                .iter()
                .find(|one| one.target.as_deref() == Some(target));
            found.unwrap_or_else(|| panic!("{target}")).clone()
        };
        assert_eq!(
            mount("/var/lib/postgresql").source.as_deref(),
            Some("shop_data")
        );
        assert_eq!(mount("/scratch").source, None);
        assert_eq!(mount("/etc/conf").read_only, Some(true));
        let source = mount("/etc/conf").source.expect("source");
        assert!(
            source.starts_with(&*directory.path().to_string_lossy()),
            "{source}"
        );
        let restart = host.restart_policy.clone().expect("restart");
        assert_eq!(restart.name, Some(RestartPolicyNameEnum::ON_FAILURE));
        assert_eq!(restart.maximum_retry_count, Some(3));
        let check = db.container.healthcheck.clone().expect("check");
        assert_eq!(check.test.expect("test"), ["CMD-SHELL", "pg_isready"]);
        assert_eq!(check.interval, Some(1_000_000_000));

        let all = db.container.labels.clone().expect("labels");
        assert_eq!(all["own"], "yes");
        assert_eq!(all[labels::PROJECT], "shop");
        assert_eq!(all[labels::SERVICE], "db");
        assert_eq!(all[labels::ONEOFF], "False");
        assert_eq!(all[labels::CONFIG_HASH], db.config_hash);
        assert!(all[labels::CONFIG_FILES].ends_with("compose.yaml"));
    }

    #[test]
    fn a_new_image_or_runtime_needs_a_new_sandbox() {
        let hash = |text: &str, image_ids: &BTreeMap<String, String>| {
            let (_directory, project) = load(text);
            let spec = project_spec(&project, image_ids).expect("specification");
            spec.services[0].config_hash.clone()
        };
        let text = "name: a\nservices: {s: {image: i, runtime: container}}\n";
        let none = BTreeMap::new();
        let ids = BTreeMap::from([("i".to_owned(), "sha256:1".to_owned())]);
        assert_eq!(hash(text, &none), hash(text, &none));
        assert_ne!(hash(text, &none), hash(text, &ids));
        assert_ne!(
            hash(text, &none),
            hash(&text.replace("container", "microvm"), &none)
        );
    }

    #[test]
    fn what_cannot_be_carried_out_is_named() {
        let text = "name: a\nservices: {s: {image: i, configs: [c]}}\nconfigs: {c: {content: x}}\n";
        let (_directory, project) = load(text);
        let error = project_spec(&project, &BTreeMap::new()).expect_err("no file");
        assert!(
            error
                .message()
                .contains("service 's': config 'c' has no file"),
            "{error}"
        );
    }
}
