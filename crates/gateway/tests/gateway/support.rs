//! Servers to stand behind the gateway, and clients to stand before it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bulkhead_gateway::{AccessLog, Backend, Counters, Gateway, Route, RouteTable, Settings};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle};

pub type Body = BoxBody<Bytes, hyper::Error>;

pub fn full(content: impl Into<Bytes>) -> Body {
    Full::new(content.into())
        .map_err(|never| match never {})
        .boxed()
}

/// A gateway that serves until it is dropped or stopped.
pub struct TestGateway {
    pub address: SocketAddr,
    pub counters: Counters,
    routes: watch::Sender<Arc<RouteTable>>,
    shutdown: Option<oneshot::Sender<()>>,
    running: JoinHandle<()>,
}

/// Short where a test waits for a timeout.
pub fn quick_settings() -> Settings {
    Settings {
        connect_window: Duration::from_millis(200),
        drain_grace: Duration::from_millis(100),
        ..Settings::default()
    }
}

impl TestGateway {
    pub fn start(routes: Vec<Route>) -> Self {
        Self::start_with(routes, quick_settings(), AccessLog::disabled())
    }

    pub fn start_with(routes: Vec<Route>, settings: Settings, log: AccessLog) -> Self {
        let (sender, receiver) = watch::channel(Arc::new(RouteTable { routes }));
        let gateway = Gateway::bind("127.0.0.1:0".parse().unwrap(), receiver, log).unwrap();
        Self::run(gateway.with_settings(settings), sender)
    }

    pub fn run(gateway: Gateway, routes: watch::Sender<Arc<RouteTable>>) -> Self {
        let (shutdown, stopped) = oneshot::channel();
        Self {
            address: gateway.local_address(),
            counters: gateway.counters(),
            routes,
            shutdown: Some(shutdown),
            running: tokio::spawn(gateway.run(async {
                stopped.await.ok();
            })),
        }
    }

    pub fn set_routes(&self, routes: Vec<Route>) {
        self.routes.send_replace(Arc::new(RouteTable { routes }));
    }

    /// Begins the shutdown.
    pub fn stop(&mut self) {
        self.shutdown.take().map(|shutdown| shutdown.send(()));
    }

    pub async fn stopped(mut self) {
        self.stop();
        self.running.await.unwrap();
    }

    pub async fn connect(&self) -> Client {
        Client::connect(self.address).await
    }

    /// One GET over a connection of its own.
    pub async fn get(&self, uri: &str) -> Answer {
        self.connect().await.get(uri).await
    }

    /// Writes bytes, and reads until the gateway closes the connection.
    pub async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        // A reset after the answer is as good as an orderly end.
        stream.read_to_end(&mut answer).await.ok();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// One connection of a client.
pub struct Client {
    pub sender: SendRequest<Body>,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        Self { sender }
    }

    pub async fn send(&mut self, request: Request<Body>) -> Answer {
        let response = self.begin(request).await;
        let (parts, body) = response.into_parts();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body: body.collect().await.unwrap().to_bytes(),
        }
    }

    pub async fn begin(&mut self, request: Request<Body>) -> Response<Incoming> {
        self.sender.ready().await.unwrap();
        self.sender.send_request(request).await.unwrap()
    }

    pub async fn get(&mut self, uri: &str) -> Answer {
        self.send(request("GET", uri, "")).await
    }
}

/// `uri` is `host/path`.
pub fn request(method: &str, uri: &str, body: impl Into<Bytes>) -> Request<Body> {
    let (host, path) = uri.split_once('/').unwrap();
    Request::builder()
        .method(method)
        .uri(format!("/{path}"))
        .header("host", host)
        .body(full(body))
        .unwrap()
}

/// A server that stops, connections and all, when it is dropped.
pub struct TestServer {
    pub address: SocketAddr,
    pub connections: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl TestServer {
    pub async fn start<Handler, Answered>(handler: Handler) -> Self
    where
        Handler: Fn(Request<Incoming>) -> Answered + Clone + Send + 'static,
        Answered: Future<Output = Response<Body>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::start_on(listener, handler)
    }

    pub fn start_on<Handler, Answered>(listener: TcpListener, handler: Handler) -> Self
    where
        Handler: Fn(Request<Incoming>) -> Answered + Clone + Send + 'static,
        Answered: Future<Output = Response<Body>> + Send + 'static,
    {
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        let task = tokio::spawn(async move {
            let mut tasks = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, Ordering::Relaxed);
                let handler = handler.clone();
                let service = service_fn(move |request| {
                    let answered = handler(request);
                    async move { Ok::<_, Infallible>(answered.await) }
                });
                tasks.spawn(async move {
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .with_upgrades()
                        .await
                        .ok();
                });
            }
        });
        Self {
            address,
            connections,
            task: task.abort_handle(),
        }
    }

    /// Answers every request with a fixed text, after the request's body was read.
    pub async fn named(name: &'static str) -> Self {
        Self::start(move |request| async move {
            request.into_body().collect().await.ok();
            Response::new(full(name))
        })
        .await
    }

    /// Answers with what it was sent: the request line and the header fields, then the body.
    pub async fn mirror() -> Self {
        Self::start(|request| async move {
            let mut text = format!("{} {}\n", request.method(), request.uri());
            for (name, value) in request.headers() {
                text.push_str(&format!("{name}: {}\n", value.to_str().unwrap()));
            }
            let body = request
                .into_body()
                .collect()
                .await
                .map(|body| body.to_bytes());
            text.push_str(&format!(
                "\n{}",
                String::from_utf8_lossy(&body.unwrap_or_default())
            ));
            Response::new(full(text))
        })
        .await
    }

    pub fn connection_count(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// A server that answers a connection's first bytes with bytes of the test's choice, and closes.
pub async fn raw_server(answer: &'static [u8]) -> TestServer {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    let task = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::Relaxed);
            let mut buffer = [0; 4096];
            let _size = stream.read(&mut buffer).await;
            stream.write_all(answer).await.ok();
        }
    });
    TestServer {
        address,
        connections,
        task: task.abort_handle(),
    }
}

/// A socket that is bound and does not listen, so that connections to it are refused and nobody
/// else is given its port.
pub fn refusing_socket() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// An address that refuses connections until the test's process ends.
pub fn refusing_address() -> SocketAddr {
    let (socket, address) = refusing_socket();
    std::mem::forget(socket);
    address
}

pub fn route(host: &str, path: &str, backends: &[SocketAddr]) -> Route {
    Route {
        host: Some(host.to_owned()),
        path_prefix: path.to_owned(),
        service: host.split('.').next().unwrap().to_owned(),
        project: "shop".to_owned(),
        backends: backends
            .iter()
            .enumerate()
            .map(|(index, address)| Backend {
                address: *address,
                sandbox: format!("replica-{}", index + 1),
            })
            .collect(),
        unavailable_reason: None,
    }
}
