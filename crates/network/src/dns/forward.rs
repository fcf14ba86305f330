//! Passes questions on to the host's resolvers, unread and unchanged but for the identifier.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::config::host_resolvers;
use super::message::{NO_ERROR, Query, SERVER_FAILURE};

const RESOLV_CONF: &str = "/etc/resolv.conf";
const ROUNDS: usize = 2;
/// What one resolver gets to answer in.
const TRY_TIMEOUT: Duration = Duration::from_millis(1800);
/// Less than the 5 s after which a C library asks again.
const TOTAL_TIMEOUT: Duration = Duration::from_millis(4500);
const NAME_ERROR: u8 = 3;

/// The resolvers to ask.
#[derive(Debug, Default)]
pub struct Upstream {
    fixed: Vec<SocketAddr>,
    /// Our own addresses: a host whose resolver is one of them would ask us in a circle.
    own: Vec<SocketAddr>,
    from_host: Mutex<Option<(SystemTime, Vec<SocketAddr>)>>,
}

impl Upstream {
    pub fn new(fixed: Vec<SocketAddr>, own: Vec<SocketAddr>) -> Self {
        Self {
            fixed,
            own,
            from_host: Mutex::default(),
        }
    }

    fn servers(&self) -> Vec<SocketAddr> {
        let mut servers = match self.fixed.as_slice() {
            [] => self.host_servers(),
            fixed => fixed.to_vec(),
        };
        servers.retain(|server| !self.own.contains(server));
        servers
    }

    fn host_servers(&self) -> Vec<SocketAddr> {
        let path = Path::new(RESOLV_CONF);
        let modified = std::fs::metadata(path)
            .and_then(|metadata| metadata.modified())
            .unwrap_or(SystemTime::UNIX_EPOCH);
        let mut cached = match self.from_host.lock() {
            Ok(cached) => cached,
            Err(poisoned) => poisoned.into_inner(),
        };
        match &*cached {
            Some((when, servers)) if *when == modified => servers.clone(),
            _ => {
                let servers = host_resolvers(path);
                *cached = Some((modified, servers.clone()));
                servers
            }
        }
    }

    /// Asks one resolver after the other, and all once more; "server failure" if none answers.
    pub async fn forward(&self, query: &Query<'_>, bytes: &[u8], over_udp: bool) -> Vec<u8> {
        let failure = || query.reply(SERVER_FAILURE, &[], 0, over_udp);
        let mut fallback = None;
        let asked = timeout(TOTAL_TIMEOUT, async {
            let servers = self.servers();
            for server in servers.iter().cycle().take(servers.len() * ROUNDS) {
                match timeout(TRY_TIMEOUT, exchange(*server, query, bytes, over_udp)).await {
                    Ok(Ok(reply)) => match reply.get(3).map(|flags| flags & 15) {
                        Some(NO_ERROR | NAME_ERROR) => return Some(reply),
                        // It answers, but cannot help: another may.
                        _ => fallback = Some(reply),
                    },
                    Ok(Err(error)) => {
                        tracing::debug!(%server, name = %query.name, %error, "resolver failed");
                    }
                    Err(_) => tracing::debug!(%server, name = %query.name, "resolver is silent"),
                }
            }
            None
        })
        .await;
        let mut reply = match asked {
            Ok(Some(reply)) => reply,
            _ => fallback.unwrap_or_else(failure),
        };
        if let (Some(to), Some(from)) = (reply.get_mut(..2), bytes.get(..2)) {
            to.copy_from_slice(from);
        }
        reply
    }
}

async fn exchange(
    server: SocketAddr,
    query: &Query<'_>,
    bytes: &[u8],
    over_udp: bool,
) -> io::Result<Vec<u8>> {
    // The port and the identifier of each question are fresh, so that an answer is hard to forge.
    let mut identifier = [0; 2];
    rustix::rand::getrandom(&mut identifier, rustix::rand::GetRandomFlags::empty())?;
    let mut question = bytes.to_vec();
    question[..2].copy_from_slice(&identifier);
    if over_udp {
        exchange_udp(server, query, identifier, &question).await
    } else {
        exchange_tcp(server, query, identifier, &question).await
    }
}

async fn exchange_udp(
    server: SocketAddr,
    query: &Query<'_>,
    identifier: [u8; 2],
    question: &[u8],
) -> io::Result<Vec<u8>> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if query.is_answered_by(identifier, &buffer[..length]) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn exchange_tcp(
    server: SocketAddr,
    query: &Query<'_>,
    identifier: [u8; 2],
    question: &[u8],
) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(question);
    stream.write_all(&framed).await?;
    let length = usize::from(stream.read_u16().await?);
    let mut reply = vec![0; length];
    stream.read_exact(&mut reply).await?;
    if !query.is_answered_by(identifier, &reply) {
        return Err(io::Error::other("the answer is to another question"));
    }
    Ok(reply)
}
