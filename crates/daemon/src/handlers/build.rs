//! `POST /build`: a context's tar in, lines of JSON out.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bulkhead_image::build::{BuildEvent, BuildOptions, Builder};
use bulkhead_model::Error;
use futures_util::StreamExt;
use serde_json::json;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::query::is_true;
use crate::app::App;
use crate::build_runner::ContainerRunner;
use crate::error::{ApiResult, message_of};

type Lines = mpsc::UnboundedSender<Result<Bytes, Error>>;

pub(crate) async fn build(
    State(app): State<App>,
    Query(query): Query<Vec<(String, String)>>,
    body: Body,
) -> ApiResult<Response> {
    let tags: Vec<String> = query
        .iter()
        .filter(|(key, value)| key == "t" && !value.is_empty())
        .map(|(_, value)| value.clone())
        .collect();
    let query: HashMap<String, String> = query.into_iter().collect();
    if query.get("remote").is_some_and(|remote| !remote.is_empty()) {
        return Err(
            Error::unsupported("remote contexts are not supported: send the context").into(),
        );
    }
    let options = Options {
        tags,
        dockerfile: query
            .get("dockerfile")
            .cloned()
            .filter(|name| !name.is_empty()),
        target: query.get("target").cloned().filter(|name| !name.is_empty()),
        build_args: pairs(query.get("buildargs"), "buildargs")?,
        labels: pairs(query.get("labels"), "labels")?,
        no_cache: is_true(query.get("nocache")),
    };
    let scratch = {
        let builds = app.paths.builds();
        std::fs::create_dir_all(&builds)
            .and_then(|()| tempfile::tempdir_in(&builds))
            .map_err(|error| Error::host("make a directory for the build").with_source(error))?
    };
    let archive = scratch.path().join("context.tar");
    receive(body, &archive).await?;
    let (lines, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let Ok(_turn) = app.builds.acquire().await else {
            return;
        };
        let runtime = Handle::current();
        let blocking = {
            let (app, lines) = (app.clone(), lines.clone());
            tokio::task::spawn_blocking(move || run(&app, scratch, options, runtime, &lines))
        };
        if let Err(error) = blocking.await {
            send(
                &lines,
                json!({ "error": format!("the build died: {error}") }),
            );
        }
    });
    let body = Body::from_stream(tokio_stream::wrappers::UnboundedReceiverStream::new(
        receiver,
    ));
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

struct Options {
    tags: Vec<String>,
    dockerfile: Option<String>,
    target: Option<String>,
    build_args: Vec<(String, String)>,
    labels: Vec<(String, String)>,
    no_cache: bool,
}

/// A JSON object of strings; an argument without a value is taken from nowhere and left out.
fn pairs(text: Option<&String>, what: &str) -> Result<Vec<(String, String)>, Error> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(Vec::new());
    };
    let map: std::collections::BTreeMap<String, Option<String>> = serde_json::from_str(text)
        .map_err(|error| Error::invalid(format!("read '{what}'")).with_source(error))?;
    Ok(map
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)))
        .collect())
}

async fn receive(body: Body, archive: &Path) -> Result<(), Error> {
    let failed = |error: std::io::Error| Error::host("keep the build context").with_source(error);
    let stream = body
        .into_data_stream()
        .map(|chunk| chunk.map_err(std::io::Error::other));
    let mut reader = tokio_util::io::StreamReader::new(stream);
    let mut file = tokio::fs::File::create(archive).await.map_err(failed)?;
    tokio::io::copy(&mut reader, &mut file)
        .await
        .map_err(failed)?;
    tokio::io::AsyncWriteExt::flush(&mut file)
        .await
        .map_err(failed)
}

fn run(app: &App, scratch: tempfile::TempDir, options: Options, runtime: Handle, lines: &Lines) {
    let context = scratch.path().join("context");
    let archive = scratch.path().join("context.tar");
    let unpacked = std::fs::create_dir(&context)
        .and_then(|()| std::fs::File::open(&archive))
        .map_err(|error| Error::host("open the build context").with_source(error))
        .and_then(|file| bulkhead_image::context::unpack_context(file, &context));
    let built = unpacked.and_then(|()| {
        std::fs::remove_file(&archive)
            .map_err(|error| Error::host("remove the context's archive").with_source(error))?;
        let name = options.dockerfile.as_deref().unwrap_or("Dockerfile");
        let build = BuildOptions {
            dockerfile: inside(&context, name)?,
            dockerfile_name: name.to_owned(),
            context,
            tags: options.tags.clone(),
            target: options.target,
            build_args: options.build_args,
            labels: options.labels,
            no_cache: options.no_cache,
        };
        let runner = ContainerRunner::new(app.engine.clone(), runtime, scratch.path().to_owned());
        let report = |event: BuildEvent| report(lines, &event);
        Builder::new(app.engine.images(), &runner, &report).build(&build)
    });
    match built {
        Ok(id) => {
            send(lines, json!({ "aux": { "ID": id.to_string() } }));
            send(
                lines,
                json!({ "stream": format!("Successfully built {}\n", short(&id.to_string())) }),
            );
            for tag in &options.tags {
                send(
                    lines,
                    json!({ "stream": format!("Successfully tagged {tag}\n") }),
                );
            }
        }
        Err(error) => {
            let message = message_of(&error);
            send(
                lines,
                json!({ "errorDetail": { "message": message }, "error": message }),
            );
        }
    }
}

fn short(id: &str) -> &str {
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    digits.get(..12).unwrap_or(digits)
}

/// A Dockerfile's path within the context.
fn inside(context: &Path, name: &str) -> Result<PathBuf, Error> {
    let relative = Path::new(name.trim_start_matches('/'));
    if relative
        .components()
        .any(|part| part == Component::ParentDir)
    {
        return Err(Error::invalid(format!(
            "the Dockerfile '{name}' is outside of the build context"
        )));
    }
    Ok(context.join(relative))
}

/// Each event twice over: as text for stock clients, as data for ours.
fn report(lines: &Lines, event: &BuildEvent) {
    let (text, data) = match event {
        BuildEvent::Started {
            number,
            total,
            text,
            stage,
        } => (
            format!("Step {number}/{total} : {text}\n"),
            json!({ "started": { "number": number, "total": total, "text": text, "stage": stage } }),
        ),
        BuildEvent::Cached { number } => (
            " ---> Using cache\n".to_owned(),
            json!({ "cached": { "number": number } }),
        ),
        BuildEvent::Output { number, line } => (
            format!("{line}\n"),
            json!({ "output": { "number": number, "line": line } }),
        ),
        BuildEvent::Done { number, duration } => (
            String::new(),
            json!({ "done": { "number": number, "milliseconds": u64::try_from(duration.as_millis()).unwrap_or(u64::MAX) } }),
        ),
        BuildEvent::Failed {
            number,
            exit_code,
            last_lines,
            file,
            line,
        } => (
            String::new(),
            json!({ "failed": { "number": number, "exit_code": exit_code, "last_lines": last_lines, "file": file, "line": line } }),
        ),
        BuildEvent::Warning { text } => (
            format!("warning: {text}\n"),
            json!({ "warning": { "text": text } }),
        ),
    };
    if text.is_empty() {
        send(lines, json!({ "bulkhead": data }));
    } else {
        send(lines, json!({ "stream": text, "bulkhead": data }));
    }
}

fn send(lines: &Lines, line: serde_json::Value) {
    if lines.send(Ok(Bytes::from(format!("{line}\n")))).is_err() {
        tracing::debug!("the client of a build is gone");
    }
}
