//! A sandbox in its supervisor's process, as the engine sees it: a client of the supervisor's
//! socket, one connection an operation.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bulkhead_engine::{Input, Output, RemoteSandbox, Session};
use bulkhead_model::{Ending, Error, ProcessSpec, Resources, Result, Stats, TerminalSize};
use bulkhead_supervisor::protocol::{
    Channel, FRAME_LIMIT, Reply, Request, frame_header, parse_header,
};
use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

/// Chunks that a session may hold before the process has to wait.
const SESSION_QUEUE: usize = 16;

pub(crate) struct SupervisedSandbox {
    socket: PathBuf,
    pid: u32,
}

struct Connection {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl SupervisedSandbox {
    pub(crate) fn new(socket: PathBuf, pid: u32) -> Self {
        Self { socket, pid }
    }

    async fn ask(&self, request: &Request) -> Result<(Reply, Connection)> {
        let mut connection = connect(&self.socket).await?;
        let mut line = serde_json::to_vec(request)
            .map_err(|error| Error::channel("encode a request").with_source(error))?;
        line.push(b'\n');
        connection.writer.write_all(&line).await.map_err(lost)?;
        let mut answer = Vec::new();
        connection
            .reader
            .read_until(b'\n', &mut answer)
            .await
            .map_err(lost)?;
        if answer.is_empty() {
            return Err(Error::channel("the supervisor ended without an answer"));
        }
        let reply: Reply = serde_json::from_slice(&answer)
            .map_err(|error| Error::channel("answer of the supervisor").with_source(error))?;
        match reply {
            Reply::Failed(failure) => Err(failure.into()),
            reply => Ok((reply, connection)),
        }
    }

    async fn command(&self, request: Request) -> Result<()> {
        self.ask(&request).await.map(drop)
    }
}

async fn connect(socket: &Path) -> Result<Connection> {
    let stream = UnixStream::connect(socket).await.map_err(|error| {
        // No socket: the workload has ended, or never began.
        Error::conflict("the sandbox is not running").with_source(error)
    })?;
    let (reader, writer) = stream.into_split();
    Ok(Connection {
        reader: BufReader::new(reader),
        writer,
    })
}

fn lost(error: std::io::Error) -> Error {
    Error::channel("talk to the supervisor").with_source(error)
}

fn unexpected(reply: &Reply) -> Error {
    Error::channel(format!("unexpected answer of the supervisor: {reply:?}"))
}

#[async_trait]
impl RemoteSandbox for SupervisedSandbox {
    fn pid(&self) -> u32 {
        self.pid
    }

    async fn start(&self) -> Result<()> {
        self.command(Request::Start).await
    }

    async fn discard(&self) -> Result<()> {
        self.command(Request::Discard).await
    }

    async fn signal(&self, signal: i32) -> Result<()> {
        self.command(Request::Signal(signal)).await
    }

    async fn resize(&self, size: TerminalSize) -> Result<()> {
        self.command(Request::Resize(size)).await
    }

    async fn wait(&self) -> Result<Ending> {
        match self.ask(&Request::Wait).await? {
            (Reply::Exited(ending), _) => Ok(ending),
            (reply, _) => Err(unexpected(&reply)),
        }
    }

    async fn attach(&self, stdin: bool) -> Result<Session> {
        let (_, connection) = self.ask(&Request::Attach { stdin }).await?;
        Ok(carry(connection))
    }

    async fn exec(&self, process: ProcessSpec) -> Result<(u32, Session)> {
        match self.ask(&Request::Exec(Box::new(process))).await? {
            (Reply::Running(pid), connection) => Ok((pid, carry(connection))),
            (reply, _) => Err(unexpected(&reply)),
        }
    }

    async fn stats(&self) -> Result<Stats> {
        match self.ask(&Request::Stats).await? {
            (Reply::Stats(stats), _) => Ok(stats),
            (reply, _) => Err(unexpected(&reply)),
        }
    }

    async fn pause(&self) -> Result<()> {
        self.command(Request::Pause).await
    }

    async fn resume(&self) -> Result<()> {
        self.command(Request::Resume).await
    }

    async fn update(&self, resources: Resources) -> Result<()> {
        self.command(Request::Update(Box::new(resources))).await
    }
}

/// Turns the frames of a connection into a session.
fn carry(connection: Connection) -> Session {
    let (input, inputs) = mpsc::channel(SESSION_QUEUE);
    let (outputs, output) = mpsc::channel(SESSION_QUEUE);
    tokio::spawn(async move {
        if let Err(error) = write_inputs(connection.writer, inputs).await {
            tracing::debug!(%error, "input of a session");
        }
    });
    tokio::spawn(async move {
        if let Err(error) = read_outputs(connection.reader, outputs).await {
            tracing::debug!(%error, "output of a session");
        }
    });
    Session { input, output }
}

async fn write_inputs(mut writer: OwnedWriteHalf, mut inputs: mpsc::Receiver<Input>) -> Result<()> {
    while let Some(input) = inputs.recv().await {
        let (channel, data) = match input {
            Input::Data(data) if data.is_empty() => continue,
            Input::Data(data) => (Channel::Stdin, data),
            Input::Close => (Channel::Stdin, Bytes::new()),
            Input::Resize(size) => (Channel::Resize, encode(&size)?),
            Input::Signal(signal) => (Channel::Signal, encode(&signal)?),
        };
        let mut rest = &data[..];
        loop {
            let chunk;
            (chunk, rest) = rest.split_at(rest.len().min(FRAME_LIMIT));
            writer
                .write_all(&frame_header(channel, chunk.len()))
                .await
                .map_err(lost)?;
            writer.write_all(chunk).await.map_err(lost)?;
            if rest.is_empty() {
                break;
            }
        }
    }
    Ok(())
}

fn encode(value: &impl serde::Serialize) -> Result<Bytes> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|error| Error::channel("encode a frame").with_source(error))
}

async fn read_outputs(
    mut reader: BufReader<OwnedReadHalf>,
    outputs: mpsc::Sender<Output>,
) -> Result<()> {
    loop {
        let mut header = [0; 5];
        match reader.read_exact(&mut header).await {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(lost(error)),
        }
        let (channel, length) = parse_header(header)?;
        let mut payload = vec![0; length];
        reader.read_exact(&mut payload).await.map_err(lost)?;
        let output = match channel {
            Channel::Stdout => Output::Stdout(payload.into()),
            Channel::Stderr => Output::Stderr(payload.into()),
            Channel::Exit => Output::Exited(
                serde_json::from_slice(&payload)
                    .map_err(|error| Error::channel("exit status").with_source(error))?,
            ),
            Channel::Stdin | Channel::Resize | Channel::Signal => continue,
        };
        // A client that went away must not stop the process: what it writes is read and dropped.
        if outputs.send(output).await.is_err() {
            tokio::io::copy(&mut reader, &mut tokio::io::sink())
                .await
                .map_err(lost)?;
            return Ok(());
        }
    }
}
