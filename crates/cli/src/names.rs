//! Which sandboxes a NAME argument means: in a project a service's name first, else a sandbox's
//! name or the beginning of its id.

use std::collections::BTreeSet;

use bulkhead_api::Client;
use bulkhead_api::client::{Filters, ListContainers};
use bulkhead_api::docker::{ContainerSummary, ContainerSummaryStateEnum, KIND_ANNOTATION, labels};

use crate::failure::{Failure, Result};
use crate::session::Session;

/// A sandbox as the list of all shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Sandbox {
    pub id: String,
    pub name: String,
    pub project: Option<String>,
    pub service: Option<String>,
    /// Counts a service's replicas from 1; 0 for others.
    pub number: u32,
    /// Made by `run`, not by `up`.
    pub oneoff: bool,
    pub state: ContainerSummaryStateEnum,
    pub summary: ContainerSummary,
}

impl Sandbox {
    fn new(summary: ContainerSummary) -> Self {
        let label = |name| {
            let labels = summary.labels.as_ref()?;
            labels.get(name).filter(|value| !value.is_empty()).cloned()
        };
        let names = summary.names.as_deref().unwrap_or_default();
        let name = names
            .first()
            .map_or("", |name| name.trim_start_matches('/'));
        Self {
            id: summary.id.clone().unwrap_or_default(),
            name: name.to_owned(),
            project: label(labels::PROJECT),
            service: label(labels::SERVICE),
            number: label(labels::CONTAINER_NUMBER)
                .and_then(|number| number.parse().ok())
                .unwrap_or(0),
            oneoff: label(labels::ONEOFF).is_some_and(|value| value.eq_ignore_ascii_case("true")),
            state: summary.state.unwrap_or(ContainerSummaryStateEnum::EMPTY),
            summary,
        }
    }

    pub fn is_running(&self) -> bool {
        matches!(
            self.state,
            ContainerSummaryStateEnum::RUNNING
                | ContainerSummaryStateEnum::PAUSED
                | ContainerSummaryStateEnum::RESTARTING
        )
    }

    /// `container` or `microvm`; empty where the daemon does not say.
    pub fn kind(&self) -> &str {
        let host = self.summary.host_config.as_ref();
        host.and_then(|host| host.annotations.as_ref()?.get(KIND_ANNOTATION))
            .map_or("", String::as_str)
    }

    /// `db-1`: what stands before its log lines.
    pub fn short_name(&self) -> &str {
        match &self.project {
            Some(project) => self
                .name
                .strip_prefix(project.as_str())
                .and_then(|rest| rest.strip_prefix('-'))
                .unwrap_or(&self.name),
            None => &self.name,
        }
    }
}

/// All sandboxes, or those of one project; those of services first, in order.
pub async fn list(client: &Client, project: Option<&str>, all: bool) -> Result<Vec<Sandbox>> {
    let mut list = ListContainers {
        all,
        filters: Filters::new(),
    };
    if let Some(project) = project {
        let label = format!("{}={project}", labels::PROJECT);
        list.filters.insert("label".into(), vec![label]);
    }
    let summaries = client.list_containers(&list).await?;
    let mut sandboxes: Vec<Sandbox> = summaries.into_iter().map(Sandbox::new).collect();
    // Those of no project stay as Docker orders them: the newest first.
    sandboxes.sort_by_key(|sandbox| match &sandbox.service {
        Some(service) => (0, sandbox.project.clone(), service.clone(), sandbox.number),
        None => (1, None, String::new(), 0),
    });
    Ok(sandboxes)
}

/// Finds the sandboxes that `name` means among all of them.
///
/// # Errors
/// No sandbox or more than one has an id that begins so.
pub fn find<'a>(
    sandboxes: &'a [Sandbox],
    project: Option<&str>,
    name: &str,
) -> Result<Vec<&'a Sandbox>> {
    if let Some(project) = project {
        let replicas: Vec<&Sandbox> = sandboxes
            .iter()
            .filter(|sandbox| !sandbox.oneoff && sandbox.project.as_deref() == Some(project))
            .filter(|sandbox| sandbox.service.as_deref() == Some(name))
            .collect();
        if !replicas.is_empty() {
            return Ok(replicas);
        }
    }
    let plain = name.trim_start_matches('/');
    if let Some(sandbox) = sandboxes
        .iter()
        .find(|sandbox| sandbox.name == plain || sandbox.id == name)
    {
        return Ok(vec![sandbox]);
    }
    let is_prefix = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let matching: Vec<&Sandbox> = sandboxes
        .iter()
        .filter(|sandbox| is_prefix && sandbox.id.starts_with(name))
        .collect();
    match matching.len() {
        1 => Ok(matching),
        0 => Err(no_such(sandboxes, project, name)),
        count => Err(Failure::new(format!(
            "'{name}' begins the ids of {count} sandboxes: give more digits"
        ))),
    }
}

fn no_such(sandboxes: &[Sandbox], project: Option<&str>, name: &str) -> Failure {
    let Some(project) = project else {
        return Failure::new(format!("no sandbox is named '{name}'"));
    };
    let services: BTreeSet<&str> = sandboxes
        .iter()
        .filter(|sandbox| sandbox.project.as_deref() == Some(project))
        .filter_map(|sandbox| sandbox.service.as_deref())
        .collect();
    if services.is_empty() {
        return Failure::new(format!(
            "no sandbox is named '{name}', and nothing of project '{project}' is up"
        ));
    }
    let services: Vec<&str> = services.into_iter().collect();
    Failure::new(format!(
        "no sandbox is named '{name}'; project '{project}' has: {}",
        services.join(", ")
    ))
}

/// What a verb is about: the sandboxes of these names, or with none the whole project's.
pub async fn select(session: &Session, names: &[String]) -> Result<Vec<Sandbox>> {
    let project = session.project_name()?;
    let client = session.client().await?;
    if names.is_empty() {
        let Some(project) = &project else {
            return Err(Failure::new(
                "name a sandbox, or run the command where a Compose file is",
            ));
        };
        let mut sandboxes = list(client, Some(project), true).await?;
        sandboxes.retain(|sandbox| !sandbox.oneoff);
        return Ok(sandboxes);
    }
    let all = list(client, None, true).await?;
    let mut selected: Vec<Sandbox> = Vec::new();
    for name in names {
        for sandbox in find(&all, project.as_deref(), name)? {
            if !selected.iter().any(|known| known.id == sandbox.id) {
                selected.push(sandbox.clone());
            }
        }
    }
    Ok(selected)
}

/// The one sandbox that `name` means: replica `index` of a service, or the first that runs.
pub async fn select_one(session: &Session, name: &str, index: Option<u32>) -> Result<Sandbox> {
    let project = session.project_name()?;
    let all = list(session.client().await?, None, true).await?;
    let found = find(&all, project.as_deref(), name)?;
    let chosen = match index {
        Some(index) => found.iter().find(|sandbox| sandbox.number == index),
        None => found
            .iter()
            .find(|sandbox| sandbox.is_running())
            .or(found.first()),
    };
    chosen.map(|sandbox| (*sandbox).clone()).ok_or_else(|| {
        let count = found.len();
        let index = index.unwrap_or_default();
        Failure::new(format!(
            "service '{name}' has no replica {index}: it has {count}"
        ))
    })
}

/// Does the same to all of them at once; the first failure is given, the others are printed.
pub async fn for_each<'a, F>(sandboxes: &'a [Sandbox], operation: F) -> Result<()>
where
    F: AsyncFn(&'a Sandbox) -> Result<()>,
{
    let mut failures = Vec::new();
    let mut running = Vec::new();
    for sandbox in sandboxes {
        running.push(Box::pin(operation(sandbox)));
    }
    // All are polled together; each is one request, so that their number is small.
    std::future::poll_fn(|context| {
        running.retain_mut(|future| match future.as_mut().poll(context) {
            std::task::Poll::Ready(Ok(())) => false,
            std::task::Poll::Ready(Err(failure)) => {
                failures.push(failure);
                false
            }
            std::task::Poll::Pending => true,
        });
        match running.is_empty() {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    let mut failures = failures.into_iter();
    let Some(first) = failures.next() else {
        return Ok(());
    };
    for failure in failures {
        crate::output::note(format!("bulkhead: {failure}"));
    }
    Err(first)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use std::collections::HashMap;

    /// A sandbox of `project`, or of none if that is empty.
    pub fn sandbox(id: &str, name: &str, project: &str, service: &str, number: u32) -> Sandbox {
        let mut map = HashMap::new();
        if !project.is_empty() {
            map.insert(labels::PROJECT.to_owned(), project.to_owned());
            map.insert(labels::SERVICE.to_owned(), service.to_owned());
            map.insert(labels::CONTAINER_NUMBER.to_owned(), number.to_string());
        }
        Sandbox::new(ContainerSummary {
            id: Some(id.to_owned()),
            names: Some(vec![format!("/{name}")]),
            labels: Some(map),
            state: Some(ContainerSummaryStateEnum::RUNNING),
            ..ContainerSummary::default()
        })
    }

    fn names(found: Result<Vec<&Sandbox>>) -> Vec<&str> {
        let found = found.expect("found");
        found.iter().map(|sandbox| sandbox.name.as_str()).collect()
    }

    #[test]
    fn a_service_comes_before_a_sandbox_of_the_same_name() {
        let all = [
            sandbox("aa11", "db", "", "", 0),
            sandbox("aa22", "shop-db-1", "shop", "db", 1),
            sandbox("bb33", "shop-db-2", "shop", "db", 2),
        ];
        assert_eq!(
            names(find(&all, Some("shop"), "db")),
            ["shop-db-1", "shop-db-2"]
        );
        assert_eq!(names(find(&all, None, "db")), ["db"]);
        assert_eq!(names(find(&all, Some("shop"), "shop-db-2")), ["shop-db-2"]);
        assert_eq!(names(find(&all, None, "bb")), ["shop-db-2"]);
        assert_eq!(all[1].short_name(), "db-1");
    }

    #[test]
    fn what_is_not_there_is_said_with_what_is() {
        let all = [
            sandbox("aa11", "x", "", "", 0),
            sandbox("aa22", "shop-db-1", "shop", "db", 1),
        ];
        let message = |project, name| {
            let error = find(&all, project, name).expect_err(name);
            error.message().to_owned()
        };
        assert!(message(Some("shop"), "web").contains("project 'shop' has: db"));
        assert!(message(Some("other"), "web").contains("nothing of project 'other' is up"));
        assert!(message(None, "aa").contains("ids of 2 sandboxes"));
        assert!(message(None, "").contains("no sandbox is named ''"));
    }
}
