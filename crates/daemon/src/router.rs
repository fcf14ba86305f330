//! Paths and methods. A leading `/v1.41` is taken off before.

use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, Uri};
use axum::routing::{any, delete, get, post};
use axum::{Json, middleware};
use serde_json::json;

use crate::app::App;
use crate::handlers::{
    attach, build, containers, events, exec, images, limits, logs, networks, projects, sandboxes,
    system, volumes,
};

pub(crate) fn router(app: App) -> Router {
    Router::new()
        .route("/_ping", get(system::ping).head(system::ping))
        .route("/version", get(system::version))
        .route("/info", get(system::info))
        .route("/system/df", get(system::disk_usage))
        .route("/auth", post(system::auth))
        .route("/events", get(events::events))
        .route("/containers/json", get(containers::list))
        .route("/containers/create", post(containers::create))
        .route("/containers/prune", post(containers::prune))
        .route("/containers/{id}", delete(containers::remove))
        .route("/containers/{id}/json", get(containers::inspect))
        .route("/containers/{id}/start", post(containers::start))
        .route("/containers/{id}/stop", post(containers::stop))
        .route("/containers/{id}/restart", post(containers::restart))
        .route("/containers/{id}/kill", post(containers::kill))
        .route("/containers/{id}/pause", post(containers::pause))
        .route("/containers/{id}/unpause", post(containers::unpause))
        .route("/containers/{id}/rename", post(containers::rename))
        .route("/containers/{id}/wait", post(containers::wait))
        .route("/containers/{id}/update", post(limits::update))
        .route("/containers/{id}/stats", get(limits::stats))
        .route("/containers/{id}/top", get(limits::top))
        .route("/containers/{id}/resize", post(attach::resize))
        .route("/containers/{id}/attach", post(attach::attach))
        .route("/containers/{id}/logs", get(logs::logs))
        .route("/containers/{id}/exec", post(exec::create))
        .route("/exec/{id}/start", post(exec::start))
        .route("/exec/{id}/resize", post(exec::resize))
        .route("/exec/{id}/json", get(exec::inspect))
        .route("/images/json", get(images::list))
        .route("/images/create", post(images::create))
        .route("/images/prune", post(images::prune))
        .route("/images/{*rest}", any(images::by_name))
        .route("/build", post(build::build))
        .route("/networks", get(networks::list))
        .route("/networks/create", post(networks::create))
        .route("/networks/prune", post(networks::prune))
        .route(
            "/networks/{id}",
            get(networks::inspect).delete(networks::remove),
        )
        .route("/volumes", get(volumes::list))
        .route("/volumes/create", post(volumes::create))
        .route("/volumes/prune", post(volumes::prune))
        .route(
            "/volumes/{name}",
            get(volumes::inspect).delete(volumes::remove),
        )
        .route("/bulkhead/projects", get(projects::list))
        .route("/bulkhead/projects/{name}", get(projects::status))
        .route("/bulkhead/projects/{name}/up", post(projects::up))
        .route("/bulkhead/projects/{name}/down", post(projects::down))
        .route("/bulkhead/sandboxes/{id}", get(sandboxes::details))
        .route("/bulkhead/sandboxes/{id}/console", get(sandboxes::console))
        .route("/bulkhead/info", get(system::bulkhead_info))
        .route("/bulkhead/shutdown", post(system::shutdown))
        .fallback(async |uri: Uri| {
            (
                StatusCode::NOT_FOUND,
                Json(json!({ "message": format!("page not found: {}", uri.path()) })),
            )
        })
        .layer(middleware::map_response(crate::error::in_our_form))
        .layer(middleware::map_response(system::add_headers))
        .layer(axum::extract::DefaultBodyLimit::max(8 << 20))
        .with_state(app)
}

/// Takes `/v1.41` off a request's path.
pub(crate) fn strip_version<B>(mut request: Request<B>) -> Request<B> {
    let uri = request.uri();
    let path = uri.path();
    let Some(rest) = path.strip_prefix("/v") else {
        return request;
    };
    let Some((version, rest)) = rest.split_once('/') else {
        return request;
    };
    let numeric = version
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    if version.is_empty() || !numeric {
        return request;
    }
    let query = uri
        .query()
        .map(|query| format!("?{query}"))
        .unwrap_or_default();
    if let Ok(stripped) = format!("/{rest}{query}").parse() {
        *request.uri_mut() = stripped;
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_taken_off() {
        let stripped = |path: &str| {
            let request = Request::builder().uri(path).body(()).expect("request");
            strip_version(request).uri().to_string()
        };
        assert_eq!(
            stripped("/v1.41/containers/json?all=1"),
            "/containers/json?all=1"
        );
        assert_eq!(stripped("/volumes/v1"), "/volumes/v1");
        assert_eq!(stripped("/_ping"), "/_ping");
        assert_eq!(stripped("/vx/y"), "/vx/y");
    }
}
