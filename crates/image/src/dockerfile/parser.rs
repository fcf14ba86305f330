use super::diagnostic::{Diagnostic, Place, suggestion};
use super::flags::{Flags, mount, network};
use super::instruction::{Command, CommandLine, Copy, Health, Instruction, Run, Word};
use super::source::{LogicalLine, Marker, Source};
use super::words;

const INSTRUCTIONS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// A Dockerfile that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    pub(crate) source: Source,
    /// ARG instructions before the first FROM.
    pub arguments: Vec<Instruction>,
    pub stages: Vec<Stage>,
}

/// FROM and what follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    pub from: Instruction,
    /// Lower case, as stage names are compared.
    pub name: Option<String>,
    pub instructions: Vec<Instruction>,
}

impl Dockerfile {
    /// Reads a Dockerfile; `file` is its name for errors.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place.
    pub fn parse(file: &str, text: &str) -> Result<Self, Diagnostic> {
        let source = Source::new(file, text)?;
        let mut arguments = Vec::new();
        let mut stages: Vec<Stage> = Vec::new();
        for line in source.logical_lines()? {
            let instruction = Parser::new(&source, &line).instruction()?;
            match (&instruction.command, stages.last_mut()) {
                (Command::From { alias, .. }, _) => {
                    let name = alias.as_ref().map(|name| name.to_ascii_lowercase());
                    if name.is_some() && stages.iter().any(|stage| stage.name == name) {
                        return Err(source.diagnostic(
                            instruction.place,
                            format!(
                                "the stage name '{}' is given twice",
                                name.unwrap_or_default()
                            ),
                            "give each stage its own name",
                        ));
                    }
                    stages.push(Stage {
                        from: instruction,
                        name,
                        instructions: Vec::new(),
                    });
                }
                (_, Some(stage)) => stage.instructions.push(instruction),
                (Command::Arg(_), None) => arguments.push(instruction),
                (_, None) => {
                    return Err(source.diagnostic(
                        instruction.place,
                        "only ARG may stand before the first FROM",
                        "start the file with 'FROM image'",
                    ));
                }
            }
        }
        if stages.is_empty() {
            let place = Place {
                line: source.lines.len().max(1),
                column: 1,
                length: 1,
            };
            return Err(source.diagnostic(
                place,
                "there is no FROM",
                "start the file with 'FROM image'",
            ));
        }
        Ok(Self {
            source,
            arguments,
            stages,
        })
    }

    /// An error about a place in the file.
    pub fn diagnostic(
        &self,
        place: Place,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Diagnostic {
        self.source.diagnostic(place, message, help)
    }
}

/// Reads the instructions of a base image's ONBUILD, or of `--change`, each on its own.
pub(crate) fn parse_on_build(file: &str, text: &str) -> Result<Vec<Instruction>, Diagnostic> {
    let source = Source::new(file, text)?;
    source
        .logical_lines()?
        .iter()
        .map(|line| Parser::new(&source, line).instruction())
        .collect()
}

pub(super) struct Parser<'a> {
    source: &'a Source,
    line: &'a LogicalLine,
    text: &'a str,
    /// Where what is not yet read starts.
    at: usize,
}

impl<'a> Parser<'a> {
    fn new(source: &'a Source, line: &'a LogicalLine) -> Self {
        Self {
            source,
            line,
            text: &line.text,
            at: 0,
        }
    }

    fn error(
        &self,
        offset: usize,
        length: usize,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Diagnostic {
        let place = self.source.place(self.line, offset, length);
        self.source.diagnostic(place, message, help)
    }

    pub(super) fn error_at(
        &self,
        word: &Word,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Diagnostic {
        self.source.diagnostic(word.place, message, help)
    }

    fn word(&self, range: std::ops::Range<usize>) -> Word {
        Word {
            text: self.text[range.clone()].to_owned(),
            place: self.source.place(self.line, range.start, range.len()),
        }
    }

    fn skip_blanks(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn words(&self) -> Vec<Word> {
        words::split(self.text, self.at, self.source.escape)
            .into_iter()
            .map(|range| self.word(range))
            .collect()
    }

    fn instruction(mut self) -> Result<Instruction, Diagnostic> {
        let end = self
            .text
            .find(char::is_whitespace)
            .unwrap_or(self.text.len());
        let written = &self.text[..end];
        let name = written.to_ascii_uppercase();
        let place = self.source.place(self.line, 0, end);
        if !INSTRUCTIONS.contains(&name.as_str()) {
            return Err(self.source.diagnostic(
                place,
                format!("unknown instruction '{written}'"),
                suggestion(&name, INSTRUCTIONS),
            ));
        }
        self.at = end;
        self.skip_blanks();
        if self.rest().is_empty() {
            return Err(self
                .source
                .diagnostic(place, format!("{name} needs an argument"), ""));
        }
        let command = self.command(&name)?;
        Ok(Instruction {
            text: self.shown(),
            place,
            command,
        })
    }

    /// The instruction on one line.
    fn shown(&self) -> String {
        let mut text = self.text.split_whitespace().collect::<Vec<_>>().join(" ");
        for heredoc in &self.line.heredocs {
            text.push_str(&format!(" ({} lines)", heredoc.content.lines().count()));
        }
        text
    }

    fn command(&mut self, name: &str) -> Result<Command, Diagnostic> {
        Ok(match name {
            "FROM" => self.from()?,
            "RUN" => self.run()?,
            "COPY" | "ADD" => self.copy(name == "ADD")?,
            "ENV" => Command::Env(self.pairs("ENV")?),
            "LABEL" => Command::Label(self.pairs("LABEL")?),
            "ARG" => self.argument()?,
            "WORKDIR" => Command::Workdir(self.one_text()),
            "USER" => Command::User(self.one_word("USER")?),
            "STOPSIGNAL" => Command::StopSignal(self.one_word("STOPSIGNAL")?),
            "EXPOSE" => Command::Expose(self.words()),
            "VOLUME" => Command::Volume(self.list_or_words()?),
            "CMD" => Command::Cmd(self.command_line()),
            "ENTRYPOINT" => Command::Entrypoint(self.command_line()),
            "SHELL" => match self.command_line() {
                CommandLine::Exec(arguments) if !arguments.is_empty() => Command::Shell(arguments),
                _ => {
                    return Err(self.error(
                        self.at,
                        self.rest().len(),
                        "SHELL needs a JSON list of strings",
                        "write it as SHELL [\"/bin/sh\", \"-c\"]",
                    ));
                }
            },
            "HEALTHCHECK" => self.health()?,
            "ONBUILD" => self.on_build()?,
            _ => Command::Maintainer(self.rest().to_owned()),
        })
    }

    fn from(&mut self) -> Result<Command, Diagnostic> {
        let mut flags = self.flags("FROM", &["platform"])?;
        let words = self.words();
        let (image, alias) = match words.as_slice() {
            [image] => (image, None),
            [image, keyword, alias] if keyword.text.eq_ignore_ascii_case("as") => {
                (image, Some(alias))
            }
            [] => return Err(self.error(0, 4, "FROM needs an image", "")),
            [_, wrong, ..] => {
                return Err(self.error_at(
                    wrong,
                    "FROM takes one image and 'AS name'",
                    "write it as FROM image AS name",
                ));
            }
        };
        if let Some(alias) = alias {
            let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
            let starts = alias.text.starts_with(|c: char| c.is_ascii_alphabetic());
            if !starts || !alias.text.chars().all(plain) {
                return Err(self.error_at(
                    alias,
                    format!("'{}' is no stage name", alias.text),
                    "use a letter, then letters, digits, '_', '.' and '-'",
                ));
            }
        }
        Ok(Command::From {
            image: image.clone(),
            platform: flags.take("platform"),
            alias: alias.map(|alias| alias.text.clone()),
        })
    }

    fn run(&mut self) -> Result<Command, Diagnostic> {
        let mut flags = self.flags("RUN", &["mount", "network", "security"])?;
        let mut mounts = Vec::new();
        for word in flags.take_all("mount") {
            mounts.push((mount(self, &word)?, word.place));
        }
        let network = match flags.take("network") {
            Some(word) => Some(network(self, &word)?),
            None => None,
        };
        if let Some(security) = flags.take("security")
            && security.text != "sandbox"
        {
            return Err(self.error_at(
                &security,
                "RUN --security is not supported",
                "leave it out: build steps run without extra privileges",
            ));
        }
        if self.rest().is_empty() {
            return Err(self.error(0, 3, "RUN needs a command", ""));
        }
        Ok(Command::Run(Run {
            command: self.command_line(),
            heredocs: self.line.heredocs.clone(),
            mounts,
            network,
        }))
    }

    fn copy(&mut self, add: bool) -> Result<Command, Diagnostic> {
        let name = if add { "ADD" } else { "COPY" };
        let known: &[&str] = if add {
            &["chown", "chmod", "exclude", "link"]
        } else {
            &["chown", "chmod", "exclude", "link", "from"]
        };
        let mut flags = self.flags(name, known)?;
        // Every layer of ours stands for itself, which is what --link asks for.
        flags.take("link");
        let mut words = self.list_or_words()?;
        let Some(destination) = words.pop() else {
            return Err(self.error(0, name.len(), format!("{name} needs a source"), ""));
        };
        if words.is_empty() {
            return Err(self.error_at(
                &destination,
                format!("{name} needs a source and a destination"),
                format!("write it as {name} source destination"),
            ));
        }
        let announced = |word: &Word| Marker::parse(&word.text).is_some();
        if !self.line.heredocs.is_empty() {
            words.retain(|word| !announced(word));
        }
        Ok(Command::Copy(Copy {
            add,
            sources: words,
            heredocs: self.line.heredocs.clone(),
            destination,
            from: flags.take("from"),
            chown: flags.take("chown"),
            chmod: flags.take("chmod"),
            exclude: flags.take_all("exclude"),
        }))
    }

    /// `A=b C="d e"`, or the old `A b c`.
    fn pairs(&mut self, name: &str) -> Result<Vec<(Word, Word)>, Diagnostic> {
        let words = self.words();
        let first = &words[0];
        if !first.text.contains('=') {
            if words.len() < 2 {
                return Err(self.error_at(
                    first,
                    format!("{name} needs a value for '{}'", first.text),
                    format!("write it as {name} {}=value", first.text),
                ));
            }
            let start = words::split(self.text, self.at, self.source.escape)[1].start;
            return Ok(vec![(first.clone(), self.word(start..self.text.len()))]);
        }
        let mut pairs = Vec::new();
        for range in words::split(self.text, self.at, self.source.escape) {
            let word = &self.text[range.clone()];
            match word.find('=') {
                Some(equals) if equals > 0 => pairs.push((
                    self.word(range.start..range.start + equals),
                    self.word(range.start + equals + 1..range.end),
                )),
                _ => {
                    return Err(self.error(
                        range.start,
                        range.len(),
                        format!("'{word}' is not of the form name=value"),
                        "put a value with spaces in quotes",
                    ));
                }
            }
        }
        Ok(pairs)
    }

    fn argument(&mut self) -> Result<Command, Diagnostic> {
        let mut arguments = Vec::new();
        for range in words::split(self.text, self.at, self.source.escape) {
            let word = &self.text[range.clone()];
            let (name, value) = match word.find('=') {
                Some(equals) => (
                    &word[..equals],
                    Some(self.word(range.start + equals + 1..range.end)),
                ),
                None => (word, None),
            };
            if name.is_empty() {
                return Err(self.error(range.start, range.len(), "ARG needs a name", ""));
            }
            arguments.push((name.to_owned(), value));
        }
        Ok(Command::Arg(arguments))
    }

    fn health(&mut self) -> Result<Command, Diagnostic> {
        let known = [
            "interval",
            "timeout",
            "start-period",
            "start-interval",
            "retries",
        ];
        let mut flags = self.flags("HEALTHCHECK", &known)?;
        let start = self.at;
        let end = self
            .rest()
            .find(char::is_whitespace)
            .map_or(self.text.len(), |end| start + end);
        let kind = self.text[start..end].to_ascii_uppercase();
        self.at = end;
        self.skip_blanks();
        match kind.as_str() {
            "NONE" if self.rest().is_empty() => Ok(Command::Healthcheck(Health::None)),
            "CMD" if !self.rest().is_empty() => Ok(Command::Healthcheck(Health::Check {
                command: self.command_line(),
                interval: flags.duration(self, "interval")?,
                timeout: flags.duration(self, "timeout")?,
                start_period: flags.duration(self, "start-period")?,
                start_interval: flags.duration(self, "start-interval")?,
                retries: flags.number(self, "retries")?,
            })),
            _ => Err(self.error(
                start,
                end - start,
                "HEALTHCHECK needs CMD and a command, or NONE",
                "write it as HEALTHCHECK CMD command",
            )),
        }
    }

    fn on_build(&mut self) -> Result<Command, Diagnostic> {
        let nested = Parser {
            source: self.source,
            line: self.line,
            text: self.text,
            at: 0,
        };
        let start = self.at;
        let end = self
            .rest()
            .find(char::is_whitespace)
            .map_or(self.text.len(), |end| start + end);
        let name = self.text[start..end].to_ascii_uppercase();
        if matches!(name.as_str(), "ONBUILD" | "FROM" | "MAINTAINER") {
            return Err(self.error(
                start,
                end - start,
                format!("{name} is not allowed in ONBUILD"),
                "",
            ));
        }
        if !INSTRUCTIONS.contains(&name.as_str()) {
            return Err(self.error(
                start,
                end - start,
                format!("unknown instruction '{name}'"),
                suggestion(&name, INSTRUCTIONS),
            ));
        }
        // It is read in full now, so that the error comes here and not in somebody else's build.
        let mut nested = nested;
        nested.at = end;
        nested.skip_blanks();
        nested.command(&name)?;
        Ok(Command::OnBuild(self.rest().to_owned()))
    }

    fn one_word(&mut self, name: &str) -> Result<Word, Diagnostic> {
        let words = self.words();
        match words.as_slice() {
            [one] => Ok(one.clone()),
            [_, more, ..] => Err(self.error_at(more, format!("{name} takes one argument"), "")),
            [] => Err(self.error(0, name.len(), format!("{name} needs an argument"), "")),
        }
    }

    /// All of the rest as one word.
    fn one_text(&self) -> Word {
        self.word(self.at..self.text.len())
    }

    /// A JSON list of strings, or the line for the shell.
    fn command_line(&self) -> CommandLine {
        match self.json() {
            Some(arguments) => CommandLine::Exec(arguments),
            None => CommandLine::Shell(self.rest().to_owned()),
        }
    }

    fn json(&self) -> Option<Vec<String>> {
        if !self.rest().starts_with('[') {
            return None;
        }
        serde_json::from_str(self.rest()).ok()
    }

    fn list_or_words(&self) -> Result<Vec<Word>, Diagnostic> {
        let Some(list) = self.json() else {
            return Ok(self.words());
        };
        let place = self.source.place(self.line, self.at, self.rest().len());
        // In a list, quotes and blanks are part of the names; variables still count.
        let quoted = |text: &str| {
            let mut out = String::new();
            for c in text.chars() {
                if c.is_whitespace() || c == '\'' || c == '"' || c == self.source.escape {
                    out.push(self.source.escape);
                }
                out.push(c);
            }
            out
        };
        Ok(list
            .iter()
            .map(|text| Word {
                text: quoted(text),
                place,
            })
            .collect())
    }

    /// Takes the `--name=value` words at the front.
    fn flags(&mut self, instruction: &str, known: &[&str]) -> Result<Flags, Diagnostic> {
        let mut flags = Flags::default();
        for range in words::split(self.text, self.at, self.source.escape) {
            let Some(flag) = self.text[range.clone()].strip_prefix("--") else {
                break;
            };
            let (name, value) = flag.split_once('=').unwrap_or((flag, ""));
            if name.is_empty() {
                break;
            }
            if !known.contains(&name) {
                return Err(self.error(
                    range.start,
                    2 + name.len(),
                    format!("{instruction} has no flag '--{name}'"),
                    suggestion(name, known.iter().copied()),
                ));
            }
            let start = range.end - value.len();
            flags.push(name, self.word(start..range.end));
            self.at = range.end;
            self.skip_blanks();
        }
        Ok(flags)
    }
}
