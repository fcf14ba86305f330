//! `/bulkhead/…`.

use bytes::Bytes;

use super::request::Call;
use super::{Client, JsonLines, Result, collect};
use crate::bulkhead::{
    BulkheadInfo, ProgressLine, ProjectDown, ProjectStatus, ProjectSummary, ProjectUp,
    SandboxDetails, Shutdown,
};

impl Client {
    /// The last line says whether it succeeded.
    pub async fn project_up(&self, up: &ProjectUp) -> Result<JsonLines<ProgressLine>> {
        let call = Call::post(&["bulkhead", "projects", &up.spec.name, "up"]).json(up);
        self.lines(call).await
    }

    /// The last line says whether it succeeded.
    pub async fn project_down(
        &self,
        name: &str,
        down: &ProjectDown,
    ) -> Result<JsonLines<ProgressLine>> {
        let call = Call::post(&["bulkhead", "projects", name, "down"]).json(down);
        self.lines(call).await
    }

    pub async fn list_projects(&self) -> Result<Vec<ProjectSummary>> {
        self.fetch(Call::get(&["bulkhead", "projects"])).await
    }

    pub async fn project_status(&self, name: &str) -> Result<ProjectStatus> {
        self.fetch(Call::get(&["bulkhead", "projects", name])).await
    }

    pub async fn sandbox_details(&self, id: &str) -> Result<SandboxDetails> {
        self.fetch(Call::get(&["bulkhead", "sandboxes", id])).await
    }

    /// What the kernel of a micro VM's last guest has said. A guest may say anything.
    pub async fn sandbox_console(&self, id: &str) -> Result<Bytes> {
        let call = Call::get(&["bulkhead", "sandboxes", id, "console"]);
        collect(self.send(call).await?).await
    }

    pub async fn bulkhead_info(&self) -> Result<BulkheadInfo> {
        self.fetch(Call::get(&["bulkhead", "info"])).await
    }

    pub async fn shutdown(&self, shutdown: &Shutdown) -> Result<()> {
        self.done(Call::post(&["bulkhead", "shutdown"]).json(shutdown))
            .await
    }
}
