//! The gateway's own answers: what went wrong, for a person or for a program.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::body::ResponseBody;
use crate::exchange::Exchange;
use crate::forward::Failure;
use crate::route::{Route, RouteTable};

/// The most routes that the page for an unknown host lists.
const MAX_LISTED: usize = 200;

/// Seconds after which a client may ask again for a service with no healthy replica.
const RETRY_AFTER: &str = "2";

/// An answer of the gateway's own, before its form is chosen.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) status: StatusCode,
    /// One line: what failed, why and what to do.
    pub(crate) message: String,
    details: Value,
    /// Hosts that do exist, as links.
    hosts: Vec<String>,
}

impl Page {
    pub(crate) fn bad_request(message: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message.to_owned(), json!({}))
    }

    pub(crate) fn method_not_allowed(message: &str) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            message.to_owned(),
            json!({}),
        )
    }

    pub(crate) fn no_route(host: &str, path: &str, table: &RouteTable) -> Self {
        let mut hosts: Vec<String> = table.routes.iter().map(route_name).collect();
        hosts.sort();
        hosts.dedup();
        hosts.truncate(MAX_LISTED);
        let message = match hosts.is_empty() {
            true => format!("no service answers at {host}{path}: no project with a route is up"),
            false => {
                format!("no service answers at {host}{path}; the routes that exist are listed")
            }
        };
        let details = json!({ "host": host, "path": path, "routes": hosts });
        Self {
            hosts,
            ..Self::new(StatusCode::NOT_FOUND, message, details)
        }
    }

    pub(crate) fn failure(route: &Route, failure: &Failure) -> Self {
        let service = &route.service;
        let (status, reason, sandbox) = match failure {
            Failure::NoReplica { reason } => {
                let reason = reason.as_deref().unwrap_or("none is running");
                (
                    StatusCode::SERVICE_UNAVAILABLE,
                    format!("has no healthy replica: {reason}"),
                    None,
                )
            }
            Failure::Unreachable { sandbox, error } => (
                StatusCode::BAD_GATEWAY,
                format!("cannot be reached: {sandbox}: {error}"),
                Some(sandbox),
            ),
            Failure::Broken { sandbox, error } => (
                StatusCode::BAD_GATEWAY,
                format!("did not answer: {sandbox}: {}", broken_reason(error)),
                Some(sandbox),
            ),
            Failure::Timeout { sandbox, after } => (
                StatusCode::GATEWAY_TIMEOUT,
                format!("did not answer within {} s: {sandbox}", after.as_secs_f64()),
                Some(sandbox),
            ),
        };
        let message = format!("service {service} of project {} {reason}", route.project);
        let mut details = json!({ "service": service, "project": route.project });
        if let Some(sandbox) = sandbox {
            details["sandbox"] = json!(sandbox);
        }
        if let Failure::NoReplica {
            reason: Some(reason),
        } = failure
        {
            details["reason"] = json!(reason);
        }
        Self::new(status, message, details)
    }

    /// A replica that does not keep to HTTP.
    pub(crate) fn broken(route: &Route, what: &str) -> Self {
        let Route {
            service, project, ..
        } = route;
        Self::new(
            StatusCode::BAD_GATEWAY,
            format!("service {service} of project {project} {what}"),
            json!({ "service": service, "project": project }),
        )
    }

    fn new(status: StatusCode, message: String, details: Value) -> Self {
        Self {
            status,
            message,
            details,
            hosts: Vec::new(),
        }
    }

    /// HTML for a browser, JSON for everybody else.
    pub(crate) fn into_response(
        self,
        request_headers: &HeaderMap,
        mut exchange: Exchange,
    ) -> Response<ResponseBody> {
        exchange.status(self.status);
        if self.status.is_server_error() {
            exchange.failed(self.message.clone());
        }
        let (content, content_type) = match prefers_html(request_headers) {
            true => (self.html(), "text/html; charset=utf-8"),
            false => (self.json(), "application/json"),
        };
        let mut response = Response::new(ResponseBody::Page {
            content: Some(Bytes::from(content)),
            exchange: Box::new(exchange),
        });
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::VARY, HeaderValue::from_static("accept"));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
        }
        // What follows on the connection cannot be told from the refused request's content.
        if [StatusCode::BAD_REQUEST, StatusCode::METHOD_NOT_ALLOWED].contains(&self.status) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    fn json(&self) -> String {
        let mut body = json!({ "status": self.status.as_u16(), "message": self.message });
        if let (Some(body), Value::Object(details)) = (body.as_object_mut(), &self.details) {
            body.extend(details.clone());
        }
        format!("{body:#}\n")
    }

    fn html(&self) -> String {
        let title = self.status.canonical_reason().unwrap_or("Error");
        let mut list = String::new();
        if !self.hosts.is_empty() {
            list.push_str("<ul>");
            for host in &self.hosts {
                list.push_str(&format!("<li><code>{}</code></li>", escape(host)));
            }
            list.push_str("</ul>");
        }
        format!(
            "<!doctype html><html lang=en><meta charset=utf-8>\
             <meta name=viewport content=\"width=device-width\"><title>{code} {title}</title><style>\
             body{{font:16px/1.6 system-ui,sans-serif;max-width:44rem;margin:12vh auto;padding:0 1.5rem;\
             color:#1c2733;background:#fbfcfd}}h1{{font-size:1.5rem;font-weight:600;margin:0 0 .75rem}}\
             h1 b{{color:#b3372f;margin-right:.5rem}}ul{{list-style:none;padding:0}}\
             li{{padding:.35rem 0;border-top:1px solid #e4e9ee}}code{{font-size:.95em}}\
             footer{{margin-top:2.5rem;font-size:.85rem;color:#76838f}}\
             @media(prefers-color-scheme:dark){{body{{color:#dde4ea;background:#14191e}}\
             li{{border-color:#2a333c}}h1 b{{color:#ff8a80}}}}</style>\
             <h1><b>{code}</b>{title}</h1><p>{message}</p>{list}<footer>Bulkhead gateway</footer>",
            code = self.status.as_u16(),
            message = escape(&self.message),
        )
    }
}

fn route_name(route: &Route) -> String {
    let host = route.host.as_deref().unwrap_or("*");
    let path = match route.path_prefix.as_str() {
        "" | "/" => "/",
        path => path,
    };
    format!("{host}{path}")
}

fn broken_reason(error: &hyper::Error) -> String {
    if error.is_incomplete_message() || error.is_canceled() {
        return "it closed the connection before its response was complete".to_owned();
    }
    if error.is_parse() {
        return format!("its response is not valid HTTP ({error})");
    }
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// A browser names `text/html`; what names JSON before it, or neither, is a program.
fn prefers_html(headers: &HeaderMap) -> bool {
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    match (accept.find("text/html"), accept.find("json")) {
        (Some(html), Some(json)) => html < json,
        (html, _) => html.is_some(),
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}
