//! `/exec/…`: one more process in a running sandbox.

use super::request::Call;
use super::{Client, Hijacked, Result};
use crate::docker::{ExecConfig, ExecInspectResponse, ExecStartConfig, IdResponse};

impl Client {
    /// Prepares the process and gives its id; it does not run yet.
    pub async fn create_exec(&self, container: &str, config: &ExecConfig) -> Result<String> {
        let call = Call::post(&["containers", container, "exec"]).json(config);
        Ok(self.fetch::<IdResponse>(call).await?.id)
    }

    /// Runs the process and connects to it.
    pub async fn start_exec(&self, id: &str, terminal: bool) -> Result<Hijacked> {
        let config = ExecStartConfig {
            detach: Some(false),
            tty: Some(terminal),
            console_size: None,
        };
        self.hijack(Call::post(&["exec", id, "start"]).json(&config), terminal)
            .await
    }

    /// Runs the process on its own.
    pub async fn start_exec_detached(&self, id: &str) -> Result<()> {
        let config = ExecStartConfig {
            detach: Some(true),
            tty: Some(false),
            console_size: None,
        };
        self.done(Call::post(&["exec", id, "start"]).json(&config))
            .await
    }

    pub async fn inspect_exec(&self, id: &str) -> Result<ExecInspectResponse> {
        self.fetch(Call::get(&["exec", id, "json"])).await
    }

    pub async fn resize_exec(&self, id: &str, rows: u16, columns: u16) -> Result<()> {
        let call = Call::post(&["exec", id, "resize"])
            .query("h", rows.to_string())
            .query("w", columns.to_string());
        self.done(call).await
    }
}
