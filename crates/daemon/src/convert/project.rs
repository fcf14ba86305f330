//! From a project's wire form to the engine's plan, and back to what clients are shown.

use std::collections::BTreeMap;
use std::time::Duration;

use bulkhead_api::bulkhead::{
    DependencyCondition, ProgressEvent, ProjectSpec, ProjectUp, ServiceSpec, Stage,
};
use bulkhead_api::docker::labels;
use bulkhead_engine::{
    Condition, DependsOn, Engine, NetworkJoin, NetworkRequest, NetworkRequestNew, PlannedNetwork,
    PlannedVolume, Progress, ProjectPlan, ServicePlan, UpOptions,
};
use bulkhead_model::{Error, Result};

use super::create::{checked_name, sandbox_config};

/// # Errors
/// `NotFound` naming every service whose image is missing; what `sandbox_config` says of one.
pub(crate) fn plan(engine: &Engine, spec: &ProjectSpec) -> Result<ProjectPlan> {
    let first = spec
        .name
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b);
    if !first || !spec.name.bytes().all(fits) || spec.name.len() > 128 {
        return Err(Error::invalid(format!(
            "'{}' is no project name: use lower-case letters, digits, '-' and '_', the first a letter or digit",
            spec.name
        )));
    }
    let services = spec
        .services
        .iter()
        .map(|service| service_plan(engine, spec, service))
        .collect::<Result<_>>()?;
    let networks = spec
        .networks
        .iter()
        .map(|network| {
            let subnet = match &network.subnet {
                None => None,
                Some(text) => Some(text.parse().map_err(|_| {
                    Error::invalid(format!(
                        "network {}: subnet '{text}' is no IPv4 subnet such as 10.5.0.0/24",
                        network.key
                    ))
                })?),
            };
            let own = [
                (labels::PROJECT.to_owned(), spec.name.clone()),
                (labels::NETWORK.to_owned(), network.key.clone()),
            ];
            Ok(PlannedNetwork {
                request: NetworkRequestNew {
                    name: network.name.clone(),
                    subnet,
                    internal: network.internal,
                    labels: network.labels.clone().into_iter().chain(own).collect(),
                },
                external: network.external,
            })
        })
        .collect::<Result<_>>()?;
    let volumes = spec
        .volumes
        .iter()
        .map(|volume| {
            let own = [
                (labels::PROJECT.to_owned(), spec.name.clone()),
                (labels::VOLUME.to_owned(), volume.key.clone()),
            ];
            PlannedVolume {
                name: volume.name.clone(),
                labels: volume.labels.clone().into_iter().chain(own).collect(),
                external: volume.external,
            }
        })
        .collect();
    Ok(ProjectPlan {
        name: spec.name.clone(),
        networks,
        volumes,
        services,
        form: serde_json::to_string(spec)
            .map_err(|error| Error::host("encode the project").with_source(error))?,
    })
}

fn service_plan(engine: &Engine, spec: &ProjectSpec, service: &ServiceSpec) -> Result<ServicePlan> {
    let of_service = |error: Error| {
        let message = format!("service {}: {error}", service.name);
        Error::new(error.kind(), message)
    };
    let mut body = service.container.clone();
    let own = [
        (labels::PROJECT, spec.name.clone()),
        (labels::SERVICE, service.name.clone()),
        (labels::CONFIG_HASH, service.config_hash.clone()),
        (labels::ONEOFF, "False".to_owned()),
        (labels::WORKING_DIRECTORY, spec.working_directory.clone()),
        (labels::CONFIG_FILES, spec.config_files.join(",")),
    ];
    body.labels
        .get_or_insert_default()
        .extend(own.map(|(key, value)| (key.to_owned(), value)));
    let image = engine
        .images()
        .resolve(body.image.as_deref().unwrap_or_default())
        .map_err(of_service)?;
    let mut template = sandbox_config(&format!("{}-{}", spec.name, service.name), &body, &image)
        .map_err(of_service)?;
    if let Some(seconds) = service.stop_grace_period_seconds {
        template.stop_timeout = Duration::from_secs(seconds);
    }
    if !service.networks.is_empty() {
        let names: BTreeMap<&str, &str> = spec
            .networks
            .iter()
            .map(|network| (network.key.as_str(), network.name.as_str()))
            .collect();
        let joins = service.networks.iter().map(|join| {
            let network = names
                .get(join.key.as_str())
                .copied()
                .unwrap_or(&join.key)
                .to_owned();
            let address = match &join.ipv4_address {
                None => None,
                Some(text) => Some(text.parse().map_err(|_| {
                    Error::invalid(format!(
                        "service {}: '{text}' is no IPv4 address",
                        service.name
                    ))
                })?),
            };
            Ok(NetworkJoin {
                network,
                aliases: join.aliases.clone(),
                address,
            })
        });
        template.network = NetworkRequest::Join(joins.collect::<Result<_>>()?);
    }
    let depends_on = service
        .depends_on
        .iter()
        .map(|dependency| DependsOn {
            service: dependency.service.clone(),
            condition: match dependency.condition {
                DependencyCondition::Started => Condition::Started,
                DependencyCondition::Healthy => Condition::Healthy,
                DependencyCondition::CompletedSuccessfully => Condition::CompletedSuccessfully,
            },
            required: dependency.required,
            restart: dependency.restart,
        })
        .collect();
    if let Some(name) = &service.container_name {
        checked_name(name).map_err(of_service)?;
    }
    Ok(ServicePlan {
        name: service.name.clone(),
        template,
        sandbox_name: service.container_name.clone(),
        replicas: service.replicas,
        depends_on,
        config_hash: service.config_hash.clone(),
    })
}

pub(crate) fn up_options(up: &ProjectUp) -> UpOptions {
    UpOptions {
        services: up.services.clone(),
        without_dependencies: up.no_deps,
        wait: up.wait,
        wait_timeout: up.wait_timeout_seconds.map(Duration::from_secs),
        force_recreate: up.force_recreate,
        no_recreate: up.no_recreate,
        no_start: up.no_start,
        remove_orphans: up.remove_orphans,
        stop_timeout: up.timeout_seconds.map(Duration::from_secs),
    }
}

pub(crate) fn progress_event(progress: Progress) -> ProgressEvent {
    use bulkhead_engine::Stage as Engine;
    ProgressEvent {
        service: progress.service,
        sandbox: progress.sandbox,
        object: progress.object,
        stage: match progress.stage {
            Engine::Creating => Stage::Creating,
            Engine::Created => Stage::Created,
            Engine::Starting => Stage::Starting,
            Engine::Started => Stage::Started,
            Engine::Healthy => Stage::Healthy,
            Engine::Stopping => Stage::Stopping,
            Engine::Stopped => Stage::Stopped,
            Engine::Removing => Stage::Removing,
            Engine::Removed => Stage::Removed,
            Engine::Running => Stage::Running,
            Engine::Waiting => Stage::Waiting,
            Engine::Failed => Stage::Failed,
        },
        message: progress.message,
    }
}
