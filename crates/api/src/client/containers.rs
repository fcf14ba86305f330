//! `/containers/…`.

use super::request::Call;
use super::{Client, Filters, Hijacked, JsonLines, Output, Result, collect};
use crate::client::Error;
use crate::docker::{
    ContainerCreateBody, ContainerCreateResponse, ContainerInspectResponse, ContainerPruneResponse,
    ContainerStatsResponse, ContainerSummary, ContainerTopResponse, ContainerUpdateBody,
    ContainerUpdateResponse, ContainerWaitResponse,
};
use hyper::Response;
use hyper::body::Incoming;

/// Which sandboxes to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListContainers {
    /// Those that do not run, too.
    pub all: bool,
    pub filters: Filters,
}

/// Which log lines to send.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    pub follow: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// Each line begins with its time and a space.
    pub timestamps: bool,
    /// Seconds since 1970, with up to nine digits after a point.
    pub since: Option<String>,
    /// As `since`.
    pub until: Option<String>,
    /// A number of lines, or `all`.
    pub tail: Option<String>,
    /// Whether the sandbox has a terminal: its output is then not framed.
    pub terminal: bool,
}

/// What to connect to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttachOptions {
    /// What was written before, from the log.
    pub logs: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// Whether the sandbox has a terminal: its output is then not framed.
    pub terminal: bool,
}

/// What to wait for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WaitCondition {
    #[default]
    NotRunning,
    NextExit,
    Removed,
}

/// A wait that the daemon has taken up: what happens from now on is not missed.
#[derive(Debug)]
pub struct Wait(Response<Incoming>);

impl Wait {
    /// # Errors
    /// [`Error::Lost`] if the daemon went away.
    pub async fn finish(self) -> Result<ContainerWaitResponse> {
        let body = collect(self.0).await?;
        serde_json::from_slice(&body).map_err(|source| Error::Malformed {
            request: "the wait for a sandbox".into(),
            source: source.into(),
        })
    }
}

impl Client {
    pub async fn list_containers(&self, list: &ListContainers) -> Result<Vec<ContainerSummary>> {
        let call = Call::get(&["containers", "json"])
            .flag("all", list.all)
            .filters(&list.filters);
        self.fetch(call).await
    }

    pub async fn create_container(
        &self,
        name: Option<&str>,
        body: &ContainerCreateBody,
    ) -> Result<ContainerCreateResponse> {
        let call = Call::post(&["containers", "create"])
            .optional("name", name)
            .json(body);
        self.fetch(call).await
    }

    pub async fn inspect_container(&self, id: &str) -> Result<ContainerInspectResponse> {
        self.fetch(Call::get(&["containers", id, "json"])).await
    }

    /// The inspection as the daemon wrote it, with every field in its place.
    pub async fn inspect_container_raw(&self, id: &str) -> Result<serde_json::Value> {
        self.fetch(Call::get(&["containers", id, "json"])).await
    }

    pub async fn start_container(&self, id: &str) -> Result<()> {
        self.done(Call::post(&["containers", id, "start"])).await
    }

    /// `timeout_seconds`: how long it may take before it is killed; its own setting if `None`.
    pub async fn stop_container(&self, id: &str, timeout_seconds: Option<u64>) -> Result<()> {
        let timeout = timeout_seconds.map(|seconds| seconds.to_string());
        self.done(Call::post(&["containers", id, "stop"]).optional("t", timeout))
            .await
    }

    /// `timeout_seconds` as for [`Client::stop_container`].
    pub async fn restart_container(&self, id: &str, timeout_seconds: Option<u64>) -> Result<()> {
        let timeout = timeout_seconds.map(|seconds| seconds.to_string());
        self.done(Call::post(&["containers", id, "restart"]).optional("t", timeout))
            .await
    }

    /// `signal`: a number or a name, with or without `SIG`.
    pub async fn kill_container(&self, id: &str, signal: &str) -> Result<()> {
        self.done(Call::post(&["containers", id, "kill"]).query("signal", signal))
            .await
    }

    pub async fn remove_container(&self, id: &str, force: bool, volumes: bool) -> Result<()> {
        let call = Call::delete(&["containers", id])
            .flag("force", force)
            .flag("v", volumes);
        self.done(call).await
    }

    /// Returns when the daemon has begun to wait.
    pub async fn wait_container(&self, id: &str, condition: WaitCondition) -> Result<Wait> {
        let condition = match condition {
            WaitCondition::NotRunning => "not-running",
            WaitCondition::NextExit => "next-exit",
            WaitCondition::Removed => "removed",
        };
        let call = Call::post(&["containers", id, "wait"]).query("condition", condition);
        self.send(call).await.map(Wait)
    }

    pub async fn container_logs(&self, id: &str, options: &LogOptions) -> Result<Output> {
        let call = Call::get(&["containers", id, "logs"])
            .flag("follow", options.follow)
            .flag("stdout", options.stdout)
            .flag("stderr", options.stderr)
            .flag("timestamps", options.timestamps)
            .optional("since", options.since.as_ref())
            .optional("until", options.until.as_ref())
            .optional("tail", options.tail.as_ref());
        let body = self.send(call).await?.into_body();
        Ok(Output::from_body(body, options.terminal))
    }

    pub async fn attach_container(&self, id: &str, options: &AttachOptions) -> Result<Hijacked> {
        let call = Call::post(&["containers", id, "attach"])
            .flag("logs", options.logs)
            .query("stream", "1")
            .flag("stdin", options.stdin)
            .flag("stdout", options.stdout)
            .flag("stderr", options.stderr);
        self.hijack(call, options.terminal).await
    }

    pub async fn resize_container(&self, id: &str, rows: u16, columns: u16) -> Result<()> {
        let call = Call::post(&["containers", id, "resize"])
            .query("h", rows.to_string())
            .query("w", columns.to_string());
        self.done(call).await
    }

    pub async fn top_container(
        &self,
        id: &str,
        ps_arguments: Option<&str>,
    ) -> Result<ContainerTopResponse> {
        let call = Call::get(&["containers", id, "top"]).optional("ps_args", ps_arguments);
        self.fetch(call).await
    }

    /// One reading, or one a second if `stream`.
    pub async fn container_stats(
        &self,
        id: &str,
        stream: bool,
    ) -> Result<JsonLines<ContainerStatsResponse>> {
        let call =
            Call::get(&["containers", id, "stats"]).query("stream", if stream { "1" } else { "0" });
        self.lines(call).await
    }

    pub async fn rename_container(&self, id: &str, name: &str) -> Result<()> {
        self.done(Call::post(&["containers", id, "rename"]).query("name", name))
            .await
    }

    pub async fn pause_container(&self, id: &str) -> Result<()> {
        self.done(Call::post(&["containers", id, "pause"])).await
    }

    pub async fn unpause_container(&self, id: &str) -> Result<()> {
        self.done(Call::post(&["containers", id, "unpause"])).await
    }

    pub async fn update_container(
        &self,
        id: &str,
        body: &ContainerUpdateBody,
    ) -> Result<ContainerUpdateResponse> {
        self.fetch(Call::post(&["containers", id, "update"]).json(body))
            .await
    }

    pub async fn prune_containers(&self, filters: &Filters) -> Result<ContainerPruneResponse> {
        self.fetch(Call::post(&["containers", "prune"]).filters(filters))
            .await
    }
}
