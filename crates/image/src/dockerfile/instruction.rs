use std::time::Duration;

use super::diagnostic::Place;
use super::source::Heredoc;

/// A word of the file and where it stands. Variables are not yet put in, quotes still there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    pub text: String,
    pub place: Place,
}

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// The whole of it on one line, as shown while it is carried out.
    pub text: String,
    /// Of its name.
    pub place: Place,
    pub command: Command,
}

/// A command line: one text for a shell, or a list of arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandLine {
    Shell(String),
    Exec(Vec<String>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    From {
        image: Word,
        platform: Option<Word>,
        alias: Option<String>,
    },
    Run(Run),
    /// COPY and ADD.
    Copy(Copy),
    Env(Vec<(Word, Word)>),
    Arg(Vec<(String, Option<Word>)>),
    Label(Vec<(Word, Word)>),
    Workdir(Word),
    User(Word),
    Expose(Vec<Word>),
    Volume(Vec<Word>),
    Cmd(CommandLine),
    Entrypoint(CommandLine),
    Healthcheck(Health),
    StopSignal(Word),
    Shell(Vec<String>),
    /// The instruction to carry out in a build on top of this image.
    OnBuild(String),
    Maintainer(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub command: CommandLine,
    pub heredocs: Vec<Heredoc>,
    pub mounts: Vec<(RunMount, Place)>,
    /// `default`, `none` or `host`.
    pub network: Option<String>,
}

/// `RUN --mount=…`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunMount {
    Bind {
        target: String,
        /// In the context, the stage or the image; `/` by default.
        source: String,
        from: Option<String>,
    },
    Cache {
        id: String,
        target: String,
        locked: bool,
        mode: Option<u32>,
        uid: u32,
        gid: u32,
        read_only: bool,
    },
    Tmpfs {
        target: String,
        /// Bytes.
        size: Option<u64>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// ADD: archives of the context are unpacked.
    pub add: bool,
    pub sources: Vec<Word>,
    /// Here-documents among the sources become files.
    pub heredocs: Vec<Heredoc>,
    pub destination: Word,
    pub from: Option<Word>,
    pub chown: Option<Word>,
    pub chmod: Option<Word>,
    pub exclude: Vec<Word>,
}

/// HEALTHCHECK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    None,
    Check {
        command: CommandLine,
        interval: Option<Duration>,
        timeout: Option<Duration>,
        start_period: Option<Duration>,
        start_interval: Option<Duration>,
        retries: Option<u32>,
    },
}
