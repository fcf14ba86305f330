//! A daemon that answers with prepared texts, so that the command is seen from both sides: what it
//! asks for, and what it prints.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET /path?query`
    pub line: String,
    pub body: String,
}

/// What to answer.
pub enum Answer {
    Json(u16, String),
    /// A body in pieces; it is cut off if `broken`.
    Stream {
        pieces: Vec<Vec<u8>>,
        broken: bool,
    },
    /// A connection that the process's output goes to.
    Hijacked(Vec<u8>),
}

pub struct Daemon {
    pub socket: PathBuf,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Daemon {
    pub fn start(
        directory: &Path,
        answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let socket = directory.join("daemon.sock");
        let listener = UnixListener::bind(&socket).expect("bind");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        let answer = Arc::new(answer);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (seen, answer) = (seen.clone(), answer.clone());
                let stream = stream.expect("accept");
                thread::spawn(move || serve(stream, &seen, &*answer));
            }
        });
        Self { socket, requests }
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("lock").clone()
    }

    pub fn lines(&self) -> Vec<String> {
        self.requests()
            .into_iter()
            .map(|request| request.line)
            .collect()
    }

    /// Runs the command against this daemon, in `directory`.
    pub fn run(&self, directory: &Path, arguments: &[&str]) -> Output {
        command(directory)
            .arg("--host")
            .arg(&self.socket)
            .args(arguments)
            .output()
            .expect("run")
    }
}

/// The command with nothing of the caller's settings.
pub fn command(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead"));
    command
        .current_dir(directory)
        .stdin(Stdio::null())
        .env_remove("BULKHEAD_HOST")
        .env_remove("DOCKER_HOST")
        .env_remove("COMPOSE_FILE")
        .env_remove("COMPOSE_PROJECT_NAME");
    command
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

fn serve(stream: UnixStream, seen: &Mutex<Vec<Request>>, answer: &dyn Fn(&Request) -> Answer) {
    let mut reader = BufReader::new(stream.try_clone().expect("clone"));
    let Some(request) = read_request(&mut reader) else {
        return;
    };
    seen.lock().expect("lock").push(request.clone());
    let answer = answer(&request);
    // A client that has seen enough goes away, as it may.
    let _ = write_answer(stream, answer);
}

fn read_request(reader: &mut BufReader<UnixStream>) -> Option<Request> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let (mut length, mut chunked) = (0, false);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let header = header.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length: ") {
            length = value.parse().expect("length");
        }
        chunked |= header == "transfer-encoding: chunked";
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    while chunked {
        let mut size = String::new();
        reader.read_line(&mut size).ok()?;
        let size = usize::from_str_radix(size.trim(), 16).expect("size");
        let mut piece = vec![0; size + 2];
        reader.read_exact(&mut piece).ok()?;
        body.extend_from_slice(&piece[..size]);
        chunked = size > 0;
    }
    Some(Request {
        line: line.rsplit_once(' ')?.0.to_owned(),
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

fn write_answer(mut stream: UnixStream, answer: Answer) -> std::io::Result<()> {
    match answer {
        Answer::Json(status, body) => write!(
            stream,
            "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ),
        Answer::Stream { pieces, broken } => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            for piece in pieces {
                write!(stream, "{:x}\r\n", piece.len())?;
                stream.write_all(&piece)?;
                stream.write_all(b"\r\n")?;
            }
            match broken {
                true => Ok(()),
                false => stream.write_all(b"0\r\n\r\n"),
            }
        }
        Answer::Hijacked(output) => {
            stream.write_all(b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")?;
            stream.write_all(&output)
        }
    }
}
