//! Starts sandboxes for scenarios and makes sure that they are gone afterwards.

use std::io::{ErrorKind as IoKind, Read, Write};
use std::thread::{self, JoinHandle};

use crate::{ExitStatus, Process, ProcessIo, ProcessSpec, Sandbox, SandboxSpec};

use super::Fixture;

/// How a process ended and what it wrote.
#[derive(Debug)]
pub struct Output {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// The standard output without its last line end, of a process that must have succeeded.
    pub fn text(&self) -> &str {
        assert_eq!(self.status.code, 0, "{self:?}");
        self.stdout.strip_suffix('\n').unwrap_or(&self.stdout)
    }
}

/// A sandbox that is deleted when the scenario ends, also by panic.
#[allow(missing_debug_implementations, reason = "a trait object")]
pub struct Running {
    sandbox: Box<dyn Sandbox>,
}

impl Running {
    pub fn create(fixture: &dyn Fixture, spec: &SandboxSpec) -> Self {
        let sandbox = fixture
            .backend()
            .create(spec, Vec::new())
            .unwrap_or_else(|error| panic!("create: {error}"));
        Self { sandbox }
    }

    pub fn start(fixture: &dyn Fixture, spec: &SandboxSpec) -> Self {
        let running = Self::create(fixture, spec);
        running
            .start_workload()
            .unwrap_or_else(|error| panic!("start: {error}"));
        running
    }

    pub fn start_workload(&self) -> crate::Result<()> {
        self.sandbox.start()
    }

    pub fn sandbox(&self) -> &dyn Sandbox {
        &*self.sandbox
    }

    pub fn io(&self) -> ProcessIo {
        self.sandbox.take_io().expect("the streams, once")
    }

    /// Runs one more process to its end.
    pub fn exec(&self, process: &ProcessSpec) -> Output {
        let (process, io) = self.exec_started(process);
        finish(io, b"", || process.wait().expect("wait for the exec"))
    }

    pub fn exec_started(&self, process: &ProcessSpec) -> (Box<dyn Process>, ProcessIo) {
        let exec = self.sandbox.exec().expect("every kind can exec");
        exec.exec(process)
            .unwrap_or_else(|error| panic!("exec: {error}"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.sandbox.delete() {
            assert!(thread::panicking(), "delete: {error}");
        }
    }
}

/// Runs a sandbox to its end and deletes it.
pub fn run(fixture: &dyn Fixture, spec: &SandboxSpec) -> Output {
    run_with_input(fixture, spec, b"")
}

/// As [`run`], with bytes for stdin, which is closed after them.
pub fn run_with_input(fixture: &dyn Fixture, spec: &SandboxSpec, input: &[u8]) -> Output {
    let running = Running::start(fixture, spec);
    let io = running.io();
    finish(io, input, || running.sandbox.wait().expect("wait"))
}

pub(super) fn finish(mut io: ProcessIo, input: &[u8], wait: impl FnOnce() -> ExitStatus) -> Output {
    let stdout = read_all(io.stdout);
    let stderr = io.stderr.take().map(read_all);
    if let Some(mut stdin) = io.stdin.take() {
        // A process that does not read its input may be gone by now.
        let _ = stdin.write_all(input);
    }
    let status = wait();
    let text = |reader: JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&reader.join().expect("reader")).into_owned()
    };
    Output {
        status,
        stdout: text(stdout),
        stderr: stderr.map(text).unwrap_or_default(),
    }
}

fn read_all(mut stream: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut all = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return all,
                Ok(count) => all.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == IoKind::Interrupted => {}
                // A terminal ends so when its last process has.
                Err(error) if error.raw_os_error() == Some(5) => return all,
                Err(error) => panic!("read the output: {error}"),
            }
        }
    })
}

/// Reads from a stream until the text is there; panics at end of file.
pub(super) fn read_until(stream: &mut impl Read, text: &str) -> String {
    let mut all = Vec::new();
    let mut byte = [0];
    loop {
        match stream.read(&mut byte) {
            Ok(1) => all.push(byte[0]),
            Ok(_) => panic!(
                "the output ended before '{text}': {}",
                String::from_utf8_lossy(&all)
            ),
            Err(error) => panic!("{error} before '{text}': {}", String::from_utf8_lossy(&all)),
        }
        if all.ends_with(text.as_bytes()) {
            return String::from_utf8_lossy(&all).into_owned();
        }
    }
}

/// A process for an exec, as root in `/` with the fixture's `PATH`.
pub(super) fn process(args: &[&str]) -> ProcessSpec {
    ProcessSpec {
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
        env: vec!["PATH=/bin".into()],
        cwd: "/".into(),
        ..ProcessSpec::default()
    }
}

/// A shell that runs `script`.
pub(super) fn shell(script: &str) -> [&str; 3] {
    ["sh", "-c", script]
}
