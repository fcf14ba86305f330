use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bulkhead_engine::Engine;
use bulkhead_image::{Image, ImageId, ImageStore, Removed};
use bulkhead_model::{Error, Result};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::query::{Filters, is_true};
use crate::app::App;
use crate::convert::inspect::{rfc3339, unix_seconds};
use crate::error::ApiResult;

type Parameters = Query<HashMap<String, String>>;

/// Runs work on the store, which blocks, away from the threads that serve.
async fn on_store<T: Send + 'static>(
    app: &App,
    work: impl FnOnce(&ImageStore) -> Result<T> + Send + 'static,
) -> Result<T> {
    let store = Arc::clone(app.engine.images());
    tokio::task::spawn_blocking(move || work(&store))
        .await
        .map_err(|error| Error::host("a thread of the daemon died").with_source(error))?
}

pub(crate) async fn list(
    State(app): State<App>,
    Query(query): Parameters,
) -> ApiResult<Json<Vec<Value>>> {
    let filters = Filters::parse(query.get("filters"))?;
    let all = is_true(query.get("all"));
    let images = on_store(&app, ImageStore::list).await?;
    let records = app.engine.list();
    let shown = images.iter().filter(|image| {
        let dangling = image.references.is_empty();
        filters.labels(&image.config.config.labels)
            && filters.any("dangling", |wanted| {
                is_true(Some(&wanted.to_owned())) == dangling
            })
            && filters.any("reference", |wanted| {
                image.references.iter().any(|reference| {
                    let name = reference.familiar();
                    name == wanted || name.split(':').next() == Some(wanted)
                })
            })
            && (all || !dangling || filters.has("dangling"))
    });
    let summaries = shown.map(|image| {
        let id = image.id.to_string();
        let containers = records
            .iter()
            .filter(|record| record.config.image_id == id)
            .count();
        json!({
            "Id": id,
            "ParentId": "",
            "RepoTags": tags(image),
            "RepoDigests": [],
            "Created": unix_seconds(image.created),
            "Size": image.size.bytes(),
            "SharedSize": -1,
            "VirtualSize": image.size.bytes(),
            "Labels": image.config.config.labels,
            "Containers": containers,
        })
    });
    Ok(Json(summaries.collect()))
}

fn tags(image: &Image) -> Vec<String> {
    image
        .references
        .iter()
        .map(bulkhead_image::Reference::familiar)
        .collect()
}

/// `POST /images/create`: an import with `fromSrc=-`. Registries come later.
pub(crate) async fn create(
    State(app): State<App>,
    Query(query): Query<Vec<(String, String)>>,
    body: Body,
) -> ApiResult<Response> {
    let changes: Vec<String> = query
        .iter()
        .filter(|(key, _)| key == "changes")
        .map(|(_, value)| value.clone())
        .collect();
    let query: HashMap<String, String> = query.into_iter().collect();
    let given = |key: &str| query.get(key).filter(|text| !text.is_empty()).cloned();
    if let Some(image) = given("fromImage") {
        return Err(Error::unsupported(format!(
            "pull {image}: registries are not supported yet: bring the image in with 'bulkhead import' or 'bulkhead build'"
        ))
        .into());
    }
    if query.get("fromSrc").map(String::as_str) != Some("-") {
        return Err(Error::unsupported(
            "only an archive in the request can be imported (fromSrc=-)",
        )
        .into());
    }
    let reference = given("repo").map(|repository| match given("tag") {
        Some(tag) => format!("{repository}:{tag}"),
        None => repository,
    });
    let message = given("message");
    let stream = body
        .into_data_stream()
        .map(|chunk| chunk.map_err(std::io::Error::other));
    let reader = SyncIoBridge::new(StreamReader::new(stream));
    let imported = on_store(&app, move |store| {
        store.import(reader, reference.as_deref(), &changes, message.as_deref())
    })
    .await;
    let line = json!({ "status": imported?.to_string() });
    Ok((
        [(header::CONTENT_TYPE, "application/json")],
        Bytes::from(format!("{line}\n")),
    )
        .into_response())
}

/// Names have slashes in them, so that the last word of the path says what is wanted.
pub(crate) async fn by_name(
    State(app): State<App>,
    method: Method,
    Path(rest): Path<String>,
    Query(query): Parameters,
) -> ApiResult<Response> {
    if method == Method::DELETE {
        return remove(&app, rest, &query).await;
    }
    let (name, action) = rest.rsplit_once('/').unwrap_or((rest.as_str(), ""));
    let name = name.to_owned();
    match (method, action) {
        (Method::GET, "json") => {
            let image = on_store(&app, move |store| store.resolve(&name)).await?;
            Ok(Json(inspect(&image)).into_response())
        }
        (Method::GET, "history") => {
            let history = on_store(&app, move |store| {
                let image = store.resolve(&name)?;
                Ok((image, store.history(&name)?))
            });
            let (image, history) = history.await?;
            let count = history.len();
            let items = history.into_iter().enumerate().map(|(index, (entry, size))| {
                let newest = index + 1 == count;
                json!({
                    "Id": if newest { image.id.to_string() } else { "<missing>".to_owned() },
                    "Created": entry.created.as_deref().and_then(|text| humantime::parse_rfc3339(text).ok()).map_or(0, unix_seconds),
                    "CreatedBy": entry.created_by.unwrap_or_default(),
                    "Tags": if newest { tags(&image) } else { Vec::new() },
                    "Size": size.bytes(),
                    "Comment": entry.comment.unwrap_or_default(),
                })
            });
            let mut items: Vec<Value> = items.collect();
            items.reverse();
            Ok(Json(items).into_response())
        }
        (Method::POST, "tag") => {
            let repository = query.get("repo").cloned().unwrap_or_default();
            let target = match query.get("tag").filter(|tag| !tag.is_empty()) {
                Some(tag) => format!("{repository}:{tag}"),
                None => repository,
            };
            on_store(&app, move |store| store.tag(&name, &target)).await?;
            Ok(StatusCode::CREATED.into_response())
        }
        (_, "push" | "get") => Err(Error::unsupported(format!(
            "'{action}' is not supported yet: registries and archives come later"
        ))
        .into()),
        _ => Err(Error::not_found(format!("page not found: /images/{rest}")).into()),
    }
}

async fn remove(app: &App, name: String, query: &HashMap<String, String>) -> ApiResult<Response> {
    let force = is_true(query.get("force"));
    let engine = app.engine.clone();
    let removed = on_store(app, move |store| {
        store.remove(&name, force, &|id| in_use(&engine, id))
    })
    .await?;
    Ok(Json(removed.iter().map(removal).collect::<Vec<_>>()).into_response())
}

fn in_use(engine: &Engine, id: &ImageId) -> bool {
    let id = id.to_string();
    engine
        .list()
        .iter()
        .any(|record| record.config.image_id == id)
}

fn removal(removed: &Removed) -> Value {
    match removed {
        Removed::Untagged(name) => json!({ "Untagged": name }),
        Removed::Deleted(digest) => json!({ "Deleted": digest }),
    }
}

pub(crate) async fn prune(
    State(app): State<App>,
    Query(query): Parameters,
) -> ApiResult<Json<Value>> {
    let filters = Filters::parse(query.get("filters"))?;
    // Docker: `dangling=false` means all that nobody uses.
    let all =
        filters.has("dangling") && !filters.any("dangling", |text| is_true(Some(&text.to_owned())));
    let engine = app.engine.clone();
    let removed = on_store(&app, move |store| {
        store.prune(all, all, &|id| in_use(&engine, id))
    })
    .await?;
    let deleted: Vec<Value> = removed.iter().map(removal).collect();
    Ok(Json(
        json!({ "ImagesDeleted": deleted, "SpaceReclaimed": 0 }),
    ))
}

fn inspect(image: &Image) -> Value {
    let config = &image.config;
    let layers: Vec<String> = config
        .rootfs
        .diff_ids
        .iter()
        .map(ToString::to_string)
        .collect();
    json!({
        "Id": image.id.to_string(),
        "RepoTags": tags(image),
        "RepoDigests": [],
        "Parent": "",
        "Comment": "",
        "Created": rfc3339(Some(image.created)),
        "Author": config.author.clone().unwrap_or_default(),
        "Config": config.config,
        "Architecture": config.architecture,
        "Os": config.os,
        "Size": image.size.bytes(),
        "GraphDriver": { "Name": "overlay2", "Data": {} },
        "RootFS": { "Type": "layers", "Layers": layers },
        "Metadata": { "LastTagTime": rfc3339(None) },
    })
}
