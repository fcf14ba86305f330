//! `/networks/…` and `/volumes/…`.

use super::request::Call;
use super::{Client, Filters, Result};
use crate::docker::{
    EndpointSettings, Network, NetworkConnectRequest, NetworkCreateRequest, NetworkCreateResponse,
    NetworkDisconnectRequest, NetworkPruneResponse, Volume, VolumeCreateOptions,
    VolumeListResponse, VolumePruneResponse,
};

impl Client {
    pub async fn list_networks(&self, filters: &Filters) -> Result<Vec<Network>> {
        self.fetch(Call::get(&["networks"]).filters(filters)).await
    }

    pub async fn inspect_network(&self, name: &str) -> Result<Network> {
        self.fetch(Call::get(&["networks", name])).await
    }

    pub async fn create_network(
        &self,
        request: &NetworkCreateRequest,
    ) -> Result<NetworkCreateResponse> {
        self.fetch(Call::post(&["networks", "create"]).json(request))
            .await
    }

    pub async fn remove_network(&self, name: &str) -> Result<()> {
        self.done(Call::delete(&["networks", name])).await
    }

    pub async fn connect_network(
        &self,
        name: &str,
        container: &str,
        endpoint: Option<EndpointSettings>,
    ) -> Result<()> {
        let request = NetworkConnectRequest {
            container: Some(container.to_owned()),
            endpoint_config: endpoint,
        };
        self.done(Call::post(&["networks", name, "connect"]).json(&request))
            .await
    }

    pub async fn disconnect_network(&self, name: &str, container: &str, force: bool) -> Result<()> {
        let request = NetworkDisconnectRequest {
            container: Some(container.to_owned()),
            force: Some(force),
        };
        self.done(Call::post(&["networks", name, "disconnect"]).json(&request))
            .await
    }

    pub async fn prune_networks(&self, filters: &Filters) -> Result<NetworkPruneResponse> {
        self.fetch(Call::post(&["networks", "prune"]).filters(filters))
            .await
    }

    pub async fn list_volumes(&self, filters: &Filters) -> Result<Vec<Volume>> {
        let list: VolumeListResponse = self.fetch(Call::get(&["volumes"]).filters(filters)).await?;
        Ok(list.volumes.unwrap_or_default())
    }

    pub async fn inspect_volume(&self, name: &str) -> Result<Volume> {
        self.fetch(Call::get(&["volumes", name])).await
    }

    pub async fn create_volume(&self, options: &VolumeCreateOptions) -> Result<Volume> {
        self.fetch(Call::post(&["volumes", "create"]).json(options))
            .await
    }

    pub async fn remove_volume(&self, name: &str, force: bool) -> Result<()> {
        self.done(Call::delete(&["volumes", name]).flag("force", force))
            .await
    }

    pub async fn prune_volumes(&self, filters: &Filters) -> Result<VolumePruneResponse> {
        self.fetch(Call::post(&["volumes", "prune"]).filters(filters))
            .await
    }
}
