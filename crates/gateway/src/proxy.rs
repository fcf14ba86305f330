//! One request: checked, routed, passed on, answered.

use std::convert::Infallible;
use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderValue};
use http::uri::{Authority, PathAndQuery};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use crate::body::{RequestBody, ResponseBody};
use crate::exchange::{Arrival, Exchange};
use crate::forward::{Answer, Forwarder};
use crate::headers;
use crate::pages::Page;
use crate::router::Target;
use crate::server::ConnectionContext;
use crate::trace::TraceContext;
use crate::upgrade::spawn_tunnel;

/// Answers every request; a failure is a page.
pub(crate) async fn serve(
    context: Arc<ConnectionContext>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let _active = context.begin_request();
    let http1 = request.version() < Version::HTTP_2;
    let mut response = answer(&context, request).await;
    if http1 && context.is_draining() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

async fn answer(
    context: &Arc<ConnectionContext>,
    mut request: Request<Incoming>,
) -> Response<ResponseBody> {
    let host = requested_host(&request);
    let path = request.uri().path().to_owned();
    let arrival = Arrival {
        client: context.client,
        method: request.method().clone(),
        host: host.as_deref().unwrap_or_default(),
        path: &path,
        trace: TraceContext::apply(request.headers_mut()),
    };
    let mut exchange = Exchange::begin(context.log.clone(), arrival);
    let refused = |page: Page, request: &Request<Incoming>, exchange| {
        page.into_response(request.headers(), exchange)
    };
    let host = match host {
        Ok(host) => host,
        Err(message) => return refused(Page::bad_request(message), &request, exchange),
    };
    if request.method() == Method::CONNECT {
        let page = Page::method_not_allowed("the gateway is no forward proxy: CONNECT is refused");
        return refused(page, &request, exchange);
    }
    let router = context.routes.current();
    let Some(target) = router.find(&host, &path).cloned() else {
        let page = Page::no_route(&host, &path, router.table());
        return refused(page, &request, exchange);
    };
    exchange.routed(&target);
    pass_on(context, request, target, &host, &path, exchange).await
}

async fn pass_on(
    context: &Arc<ConnectionContext>,
    mut request: Request<Incoming>,
    target: Arc<Target>,
    host: &str,
    path: &str,
    mut exchange: Exchange,
) -> Response<ResponseBody> {
    let upgrade = requested_upgrade(&request);
    let client_upgrade = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
    let accept = request.headers().get(header::ACCEPT).cloned();
    let outgoing = outgoing_request(context, request, host, upgrade, &exchange);
    let forwarder = Forwarder {
        routes: &context.routes,
        settings: &context.settings,
        host,
        path,
        exchange: &mut exchange,
        upgrade: client_upgrade.is_some(),
    };
    match forwarder.forward(target.clone(), outgoing).await {
        Ok(answer) => pass_back(context, answer, client_upgrade, &target, exchange),
        Err(failure) => {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(header::ACCEPT, accept);
            }
            Page::failure(&target.route, &failure).into_response(&headers, exchange)
        }
    }
}

/// The request as the replica sees it: the same method, path, query and end-to-end fields.
fn outgoing_request(
    context: &ConnectionContext,
    request: Request<Incoming>,
    host: &str,
    upgrade: Option<HeaderValue>,
    exchange: &Exchange,
) -> Request<RequestBody> {
    let (mut parts, body) = request.into_parts();
    let trailers = headers::accepts_trailers(&parts.headers);
    headers::remove_hop_by_hop(&mut parts.headers);
    headers::set_forwarded(&mut parts.headers, context.client, host);
    // hyper asks the client for its body as soon as the replica's connection takes it; the replica
    // has nothing left to say about it.
    parts.headers.remove(header::EXPECT);
    // HTTP/2 splits cookies into several fields, HTTP/1.1 must not (RFC 9113 §8.2.3).
    join_cookies(&mut parts.headers);
    // The authority of an absolute target, and of HTTP/2, counts instead of `Host` (RFC 9112 §3.2.2).
    if let Ok(value) = HeaderValue::from_str(host) {
        parts.headers.insert(header::HOST, value);
    }
    let mut connection = Vec::new();
    if let Some(protocol) = upgrade {
        parts.headers.insert(header::UPGRADE, protocol);
        connection.push("upgrade");
    }
    if trailers {
        parts
            .headers
            .insert(header::TE, HeaderValue::from_static("trailers"));
        connection.push("te");
    }
    if let Ok(value) = HeaderValue::from_str(&connection.join(", "))
        && !connection.is_empty()
    {
        parts.headers.insert(header::CONNECTION, value);
    }
    let path = parts.uri.path_and_query().cloned();
    parts.uri = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    let body = RequestBody::new(body, exchange.bytes_in.clone());
    let mut outgoing = Request::new(body);
    *outgoing.method_mut() = parts.method;
    *outgoing.uri_mut() = parts.uri;
    *outgoing.headers_mut() = parts.headers;
    outgoing
}

/// The response as the client sees it.
fn pass_back(
    context: &Arc<ConnectionContext>,
    answer: Answer,
    client_upgrade: Option<OnUpgrade>,
    target: &Target,
    mut exchange: Exchange,
) -> Response<ResponseBody> {
    let Answer {
        mut response,
        lease,
    } = answer;
    exchange.status(response.status());
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(client_upgrade) = client_upgrade else {
            let message = "changed the protocol without having been asked to";
            return Page::broken(&target.route, message)
                .into_response(response.headers(), exchange);
        };
        let replica_upgrade = hyper::upgrade::on(&mut response);
        let protocol = headers::upgrade_protocol(response.headers());
        let (mut parts, _) = response.into_parts();
        headers::remove_hop_by_hop(&mut parts.headers);
        parts
            .headers
            .insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        if let Some(protocol) = protocol {
            parts.headers.insert(header::UPGRADE, protocol);
        }
        spawn_tunnel(client_upgrade, replica_upgrade, exchange, context.clone());
        let mut response = Response::new(ResponseBody::Upgraded);
        *response.status_mut() = parts.status;
        *response.headers_mut() = parts.headers;
        return response;
    }
    let (parts, body) = response.into_parts();
    let mut response = Response::new(ResponseBody::Streamed {
        body,
        exchange: Box::new(exchange),
        lease: Some(lease),
    });
    *response.status_mut() = parts.status;
    *response.headers_mut() = parts.headers;
    headers::remove_hop_by_hop(response.headers_mut());
    response
}

/// The host that the request is for, as the client wrote it.
fn requested_host(request: &Request<Incoming>) -> Result<String, &'static str> {
    let mut fields = request.headers().get_all(header::HOST).iter();
    let field = fields.next();
    if fields.next().is_some() {
        return Err("the request has several Host fields");
    }
    let field = match field.map(HeaderValue::to_str) {
        Some(Ok(text)) => Some(text),
        Some(Err(_)) => return Err("the request's Host is not a host name"),
        None => None,
    };
    let text = match (request.uri().authority(), field) {
        (Some(authority), _) => authority.as_str(),
        (None, Some(text)) => text,
        (None, None) if request.version() <= Version::HTTP_10 => return Ok(String::new()),
        (None, None) => return Err("the request has no Host"),
    };
    // An empty Host is legal (RFC 9112 §3.2) and is nobody's.
    if text.is_empty() {
        return Ok(String::new());
    }
    match text.parse::<Authority>() {
        Ok(authority) if !text.contains(['@', '"', '\\']) => Ok(authority.as_str().to_owned()),
        _ => Err("the request's Host is not a host name"),
    }
}

/// The protocol to change to, if the request asks for one that may pass. HTTP itself may not: in a
/// tunnel of HTTP/2 the client would choose paths that the gateway never sees.
fn requested_upgrade(request: &Request<Incoming>) -> Option<HeaderValue> {
    if request.version() != Version::HTTP_11 {
        return None;
    }
    let protocol = headers::upgrade_protocol(request.headers())?;
    let text = protocol.to_str().ok()?.to_ascii_lowercase();
    let http = text
        .split(',')
        .map(str::trim)
        .any(|name| name == "h2c" || name == "h2" || name.starts_with("http/"));
    (!http).then_some(protocol)
}

fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(header::COOKIE).iter();
    if cookies.next().is_some() && cookies.next().is_some() {
        let parts: Vec<&[u8]> = headers
            .get_all(header::COOKIE)
            .iter()
            .map(HeaderValue::as_bytes)
            .collect();
        if let Ok(joined) = HeaderValue::from_bytes(&parts.join(&b"; "[..])) {
            headers.insert(header::COOKIE, joined);
        }
    }
}
