//! From a Compose project to what the daemon is asked for: a create request for each service, and
//! the networks and volumes that they use.

mod host;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bulkhead_api::bulkhead::{
    Dependency, DependencyCondition, NetworkSpec, ProjectSpec, ServiceNetwork, ServiceSpec,
    VolumeSpec,
};
use bulkhead_api::docker::{
    ContainerCreateBody, EndpointIpamConfig, EndpointSettings, HealthConfig, NetworkingConfig,
    labels,
};
use bulkhead_compose::{Healthcheck, Project, Service};
use sha2::{Digest, Sha256};

use crate::failure::{Failure, Result};
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
        host_config: Some(host::host_config(project, service, ports)?),
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
