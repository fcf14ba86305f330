//! The daemon itself.

use super::request::Call;
use super::{Client, Filters, JsonLines, Result};
use crate::docker::{EventMessage, SystemDataUsageResponse, SystemInfo, SystemVersion};

impl Client {
    pub async fn ping(&self) -> Result<()> {
        self.done(Call::get(&["_ping"])).await
    }

    pub async fn version(&self) -> Result<SystemVersion> {
        self.fetch(Call::get(&["version"])).await
    }

    pub async fn info(&self) -> Result<SystemInfo> {
        self.fetch(Call::get(&["info"])).await
    }

    pub async fn disk_usage(&self) -> Result<SystemDataUsageResponse> {
        self.fetch(Call::get(&["system", "df"])).await
    }

    /// `since` and `until`: seconds since 1970. Without `until` it goes on for ever.
    pub async fn events(
        &self,
        since: Option<&str>,
        until: Option<&str>,
        filters: &Filters,
    ) -> Result<JsonLines<EventMessage>> {
        let call = Call::get(&["events"])
            .optional("since", since)
            .optional("until", until)
            .filters(filters);
        self.lines(call).await
    }
}
