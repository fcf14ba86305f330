use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bulkhead_api::Client;
use bulkhead_api::bulkhead::{ProgressEvent, ProjectSpec, ProjectUp, Stage};
use bulkhead_compose::{Project, PullPolicy};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::arguments::LateGlobals;
use crate::build::{self, Audience, Plan};
use crate::convert::{image_name, project_spec};
use crate::emulation;
use crate::failure::{Failure, Result};
use crate::logs;
use crate::names::{self, Sandbox};
use crate::output::{self, Look};
use crate::progress::{self, Progress};
use crate::project;
use crate::session::Session;
use crate::time::Timestamp;

#[derive(Debug, Args)]
pub struct Up {
    #[command(flatten)]
    pub late: LateGlobals,
    /// Return when everything is started, instead of showing the logs
    #[arg(short, long)]
    detach: bool,
    /// Build the images first, also those that are here
    #[arg(long)]
    build: bool,
    /// Do not build, not even what is missing
    #[arg(long, conflicts_with = "build")]
    no_build: bool,
    /// Return when everything is healthy (with --detach)
    #[arg(long)]
    wait: bool,
    /// How long to wait for that
    #[arg(long, value_name = "SECONDS")]
    wait_timeout: Option<u64>,
    /// Number of replicas of a service
    #[arg(long = "scale", value_name = "SERVICE=NUMBER")]
    scales: Vec<String>,
    /// Replace sandboxes whose configuration has not changed, too
    #[arg(long)]
    force_recreate: bool,
    /// Keep sandboxes whose configuration has changed
    #[arg(long, conflicts_with = "force_recreate")]
    no_recreate: bool,
    /// Create the sandboxes, but do not start them
    #[arg(long)]
    no_start: bool,
    /// Leave alone what the services depend on
    #[arg(long)]
    no_deps: bool,
    /// Remove sandboxes of services that the project no longer has
    #[arg(long)]
    remove_orphans: bool,
    /// Seconds until a sandbox that does not stop is killed
    #[arg(short, long = "timeout", value_name = "SECONDS")]
    timeout_seconds: Option<u64>,
    /// Show no progress
    #[arg(long)]
    quiet: bool,
    /// No colours in the logs
    #[arg(long)]
    no_color: bool,
    /// Do not put the sandbox's name before each line
    #[arg(long)]
    no_log_prefix: bool,
    /// Services; all if none is named
    services: Vec<String>,
}

pub async fn run(session: &Rc<Session>, arguments: Up) -> Result<u8> {
    let mut loaded = session.require_project()?;
    project::enable(&mut loaded, &arguments.services)?;
    scale(&mut loaded, &arguments.scales)?;
    let wanted = project::with_dependencies(&loaded, &arguments.services, arguments.no_deps);
    let client = session.client().await?;
    let begun = Timestamp::now();

    let mut progress = Progress::new(arguments.quiet);
    let image_ids = provide_images(client, &loaded, &wanted, &arguments, &mut progress).await;
    let image_ids = match image_ids {
        Ok(image_ids) => image_ids,
        Err(failure) => {
            progress.finish();
            return Err(failure);
        }
    };
    let request = ProjectUp {
        spec: project_spec(&loaded, &image_ids)?,
        services: arguments.services.clone(),
        no_deps: arguments.no_deps,
        wait: arguments.wait,
        wait_timeout_seconds: arguments.wait_timeout,
        force_recreate: arguments.force_recreate,
        no_recreate: arguments.no_recreate,
        no_start: arguments.no_start,
        remove_orphans: arguments.remove_orphans,
        timeout_seconds: arguments.timeout_seconds,
    };
    if let Some((services, line)) = emulated(client, &request.spec).await {
        progress.announce(services, line);
    }
    let lines = client.project_up(&request).await;
    let result = match lines {
        Ok(lines) => progress::follow(lines, &mut progress).await,
        Err(error) => Err(error.into()),
    };
    progress.finish();
    result?;
    if arguments.detach || arguments.wait || arguments.no_start {
        return Ok(0);
    }
    attach(session, &loaded, &arguments, begun).await
}

/// The services that run in micro VMs on software, and what the user is told of it.
async fn emulated(client: &Client, spec: &ProjectSpec) -> Option<(BTreeSet<String>, String)> {
    let info = emulation::host(client, spec.services.iter().map(|s| &s.container)).await?;
    let emulated = spec.services.iter().filter_map(|service| {
        let reason = emulation::reason(&service.container, &info)?;
        Some((service.name.clone(), reason))
    });
    let emulated: BTreeMap<_, _> = emulated.collect();
    let line = emulation::note(emulated.values().next()?);
    Some((emulated.into_keys().collect(), line))
}

fn scale(project: &mut Project, scales: &[String]) -> Result<()> {
    for scale in scales {
        let parsed = scale
            .split_once('=')
            .and_then(|(name, number)| Some((name, number.parse::<u32>().ok()?)));
        let Some((name, number)) = parsed else {
            return Err(Failure::new(format!(
                "--scale {scale}: write it as SERVICE=NUMBER"
            )));
        };
        let Some(service) = project.services.get_mut(name) else {
            return Err(Failure::new(format!(
                "--scale {scale}: no service '{name}'"
            )));
        };
        if number > 1 && service.container_name.is_some() {
            return Err(Failure::new(format!(
                "--scale {scale}: '{name}' has a 'container_name', which only one replica can have"
            )));
        }
        service.deploy.replicas = number;
    }
    Ok(())
}

/// Builds what is missing and may be built. Gives the id of each image by its name.
async fn provide_images(
    client: &Client,
    project: &Project,
    wanted: &[String],
    arguments: &Up,
    progress: &mut Progress,
) -> Result<BTreeMap<String, String>> {
    let mut ids = BTreeMap::new();
    let mut built = BTreeSet::new();
    // In the order of starting, because one image may be the base of another.
    let order = project.start_order().into_iter().flatten();
    for name in order.filter(|name| wanted.contains(name)) {
        let service = &project.services[&name];
        let image = image_name(project, service);
        if !ids.contains_key(&image) {
            match client.inspect_image(&image).await {
                Ok(found) => {
                    ids.insert(image.clone(), found.id.unwrap_or_default());
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        let always = arguments.build || service.pull_policy == Some(PullPolicy::Build);
        let missing = !ids.contains_key(&image);
        let wanted = (always || missing) && !built.contains(&image);
        match Plan::of_service(project, service) {
            Some(plan) if wanted && !arguments.no_build => {
                let id = build_one(client, &name, &plan, progress).await?;
                built.insert(image.clone());
                ids.insert(image, id);
            }
            Some(_) if missing => {
                return Err(Failure::new(format!(
                    "service '{name}': image '{image}' is not here; leave out --no-build to build it"
                )));
            }
            None if missing => {
                return Err(Failure::new(format!(
                    "service '{name}': image '{image}' is not here; build it, or bring it in with \
                     'bulkhead import FILE {image}'"
                )));
            }
            _ => {}
        }
    }
    // The id that a build reports may be short; the daemon's own is what later runs compare.
    for image in &built {
        ids.insert(
            image.clone(),
            client.inspect_image(image).await?.id.unwrap_or_default(),
        );
    }
    Ok(ids)
}

async fn build_one(
    client: &Client,
    service: &str,
    plan: &Plan,
    progress: &mut Progress,
) -> Result<String> {
    let event = |stage, message: Option<&str>| ProgressEvent {
        service: Some(service.to_owned()),
        stage,
        message: message.map(str::to_owned),
        ..ProgressEvent::default()
    };
    progress.event(&event(Stage::Building, None));
    let look = Look::of_stderr();
    let audience = match look.terminal || progress.is_quiet() {
        true => Audience::Nobody,
        false => Audience::User,
    };
    let built = build::build(client, plan, audience, |line| {
        if look.terminal {
            progress.event(&event(Stage::Building, Some(line.trim())));
        } else if !progress.is_quiet() {
            output::note(format!("{service}: {line}"));
        }
    })
    .await;
    match &built {
        Ok(_) => progress.event(&event(Stage::Created, Some("image built"))),
        Err(_) => progress.event(&event(Stage::Failed, Some("the build failed"))),
    }
    built
}

/// Shows the logs until everything has ended. Ctrl-C stops it all, a second one kills it.
async fn attach(
    session: &Rc<Session>,
    project: &Project,
    arguments: &Up,
    begun: Timestamp,
) -> Result<u8> {
    let client = session.client().await?;
    let mut sandboxes = names::list(client, Some(&project.name), true).await?;
    sandboxes.retain(|sandbox| {
        let named = |service| arguments.services.is_empty() || arguments.services.contains(service);
        !sandbox.oneoff && sandbox.service.as_ref().is_some_and(named)
    });
    let settings = logs::Settings {
        follow: true,
        since: Some(begun.to_parameter()),
        prefix: !arguments.no_log_prefix,
        color: Look::of_stdout().color && !arguments.no_color,
        project: Some(project.name.clone()),
        services: arguments.services.clone(),
        ..logs::Settings::default()
    };
    let cannot = |error: std::io::Error| Failure::new(format!("watch for signals: {error}"));
    let mut interrupts = signal(SignalKind::interrupt()).map_err(cannot)?;
    let mut terminations = signal(SignalKind::terminate()).map_err(cannot)?;
    let mut shown = std::pin::pin!(logs::show(session, &sandboxes, settings));
    let levels = stop_order(project, &sandboxes);
    let mut stopping = None;
    loop {
        tokio::select! {
            result = &mut shown => {
                result?;
                break;
            }
            _ = interrupts.recv() => {}
            _ = terminations.recv() => {}
        }
        let session = session.clone();
        let levels = levels.clone();
        let timeout = arguments.timeout_seconds;
        if stopping.is_none() {
            output::note("bulkhead: stopping; press ctrl-c again to kill");
            stopping = Some(tokio::task::spawn_local(async move {
                stop_all(&session, &levels, timeout).await
            }));
        } else {
            output::note("bulkhead: killing");
            tokio::task::spawn_local(async move { kill_all(&session, &levels).await });
        }
    }
    match stopping {
        None => Ok(0),
        Some(stopping) => match stopping.await {
            Ok(Err(failure)) => Err(failure),
            _ => Ok(130),
        },
    }
}

/// The sandboxes in the opposite order of starting.
fn stop_order(project: &Project, sandboxes: &[Sandbox]) -> Vec<Vec<Sandbox>> {
    let of_level = |level: &Vec<String>| -> Vec<Sandbox> {
        let belongs = |sandbox: &&Sandbox| {
            sandbox
                .service
                .as_ref()
                .is_some_and(|service| level.contains(service))
        };
        sandboxes.iter().filter(belongs).cloned().collect()
    };
    project.start_order().iter().rev().map(of_level).collect()
}

async fn stop_all(session: &Session, levels: &[Vec<Sandbox>], timeout: Option<u64>) -> Result<()> {
    let client = session.client().await?;
    for level in levels {
        names::for_each(level, async |sandbox| {
            match client.stop_container(&sandbox.id, timeout).await {
                Err(error) if !error.is_not_found() => Err(error.into()),
                _ => Ok(()),
            }
        })
        .await?;
    }
    Ok(())
}

async fn kill_all(session: &Session, levels: &[Vec<Sandbox>]) -> Result<()> {
    let client = session.client().await?;
    for level in levels {
        names::for_each(level, async |sandbox| {
            // What has ended already cannot be killed, and need not be.
            let _ = client.kill_container(&sandbox.id, "KILL").await;
            Ok(())
        })
        .await?;
    }
    Ok(())
}
