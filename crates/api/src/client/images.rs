//! `/images/…` and `/build`.

use std::collections::BTreeMap;

use super::request::Call;
use super::{BodyReceiver, Client, Filters, JsonLines, Result};
use crate::docker::{
    BuildInfo, CreateImageInfo, HistoryResponseItem, ImageDeleteResponseItem, ImageInspect,
    ImagePruneResponse, ImageSummary,
};

/// How to build an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BuildOptions {
    /// Names for the result, `NAME[:TAG]`.
    pub tags: Vec<String>,
    /// Path of the Dockerfile inside the context; `Dockerfile` if `None`.
    pub dockerfile: Option<String>,
    pub build_args: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    pub target: Option<String>,
    pub no_cache: bool,
    pub quiet: bool,
    pub pull: bool,
    /// `default`, `none` or `host`.
    pub network: Option<String>,
}

/// How to make an image of a root filesystem's archive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportOptions {
    pub repository: String,
    pub tag: Option<String>,
    pub message: Option<String>,
    /// Dockerfile instructions that set the image's configuration.
    pub changes: Vec<String>,
}

impl Client {
    pub async fn list_images(&self, all: bool, filters: &Filters) -> Result<Vec<ImageSummary>> {
        let call = Call::get(&["images", "json"])
            .flag("all", all)
            .filters(filters);
        self.fetch(call).await
    }

    pub async fn inspect_image(&self, name: &str) -> Result<ImageInspect> {
        self.fetch(Call::get(&["images", name, "json"])).await
    }

    /// The inspection as the daemon wrote it, with every field in its place.
    pub async fn inspect_image_raw(&self, name: &str) -> Result<serde_json::Value> {
        self.fetch(Call::get(&["images", name, "json"])).await
    }

    pub async fn image_history(&self, name: &str) -> Result<Vec<HistoryResponseItem>> {
        self.fetch(Call::get(&["images", name, "history"])).await
    }

    pub async fn tag_image(&self, name: &str, repository: &str, tag: &str) -> Result<()> {
        let call = Call::post(&["images", name, "tag"])
            .query("repo", repository)
            .query("tag", tag);
        self.done(call).await
    }

    pub async fn remove_image(
        &self,
        name: &str,
        force: bool,
    ) -> Result<Vec<ImageDeleteResponseItem>> {
        self.fetch(Call::delete(&["images", name]).flag("force", force))
            .await
    }

    pub async fn prune_images(&self, filters: &Filters) -> Result<ImagePruneResponse> {
        self.fetch(Call::post(&["images", "prune"]).filters(filters))
            .await
    }

    /// `archive` is a tar archive, compressed or not.
    pub async fn import_image(
        &self,
        options: &ImportOptions,
        archive: BodyReceiver,
    ) -> Result<JsonLines<CreateImageInfo>> {
        let mut call = Call::post(&["images", "create"])
            .query("fromSrc", "-")
            .query("repo", &options.repository)
            .optional("tag", options.tag.as_ref())
            .optional("message", options.message.as_ref());
        for change in &options.changes {
            call = call.query("changes", change);
        }
        self.lines(call.tar(archive)).await
    }

    /// `context` is a tar archive, compressed or not.
    pub async fn build_image(
        &self,
        options: &BuildOptions,
        context: BodyReceiver,
    ) -> Result<JsonLines<BuildInfo>> {
        let mut call = Call::post(&["build"])
            .optional("dockerfile", options.dockerfile.as_ref())
            .optional("target", options.target.as_ref())
            .optional("networkmode", options.network.as_ref())
            .flag("nocache", options.no_cache)
            .flag("q", options.quiet)
            .flag("pull", options.pull)
            .query("rm", "1");
        for tag in &options.tags {
            call = call.query("t", tag);
        }
        for (name, values) in [
            ("buildargs", &options.build_args),
            ("labels", &options.labels),
        ] {
            if !values.is_empty() {
                let text = serde_json::to_string(values).expect("a map of texts");
                call = call.query(name, text);
            }
        }
        self.lines(call.tar(context)).await
    }
}
