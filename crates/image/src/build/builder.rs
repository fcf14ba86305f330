use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use bulkhead_model::{Error, Result};

use super::file_digests::FileDigests;
use super::stage::StageState;
use super::{BuildCache, BuildEvent, BuildOptions, StepRunner};
use crate::config::{ImageConfig, RootFs};
use crate::context::Ignore;
use crate::dockerfile::{Command, Diagnostic, Dockerfile, Instruction, Place, Word, expand};
use crate::failure::Context;
use crate::rooted::Rooted;
use crate::store::{ImageStore, Lease, named};
use crate::{ImageId, tree};

/// A Dockerfile larger than this is none.
const LARGEST_DOCKERFILE: u64 = 4 << 20;

/// Arguments that every build takes without an ARG, and that do not count for the cache.
pub(super) const PROXY_ARGUMENTS: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// Builds images into a store.
pub struct Builder<'a> {
    store: &'a ImageStore,
    runner: &'a dyn StepRunner,
    progress: &'a dyn Fn(BuildEvent),
}

impl std::fmt::Debug for Builder<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Builder")
            .field("store", self.store)
            .finish_non_exhaustive()
    }
}

impl<'a> Builder<'a> {
    pub fn new(
        store: &'a ImageStore,
        runner: &'a dyn StepRunner,
        progress: &'a dyn Fn(BuildEvent),
    ) -> Self {
        Self {
            store,
            runner,
            progress,
        }
    }

    /// Builds the target and gives it the tags. Only the stages that it needs are built.
    ///
    /// # Errors
    /// `InvalidInput` for what is wrong in the Dockerfile or fails because of it, with file, line,
    /// column and caret; `NotFound` for a base image that is not there. No image and no tag is
    /// changed then; the steps that succeeded stay in the cache.
    pub fn build(&self, options: &BuildOptions) -> Result<ImageId> {
        let tags = options
            .tags
            .iter()
            .map(|tag| named(tag))
            .collect::<Result<Vec<_>>>()?;
        let name = if options.dockerfile_name.is_empty() {
            options.dockerfile.display().to_string()
        } else {
            options.dockerfile_name.clone()
        };
        let text = read_dockerfile(options, &name)?;
        let dockerfile = Dockerfile::parse(&name, &text)?;
        let target = find_target(&dockerfile, options.target.as_deref(), &name)?;
        let needed = needed_stages(&dockerfile, target);
        let lease = self.store.lease()?;
        let mut session = Session {
            store: self.store,
            runner: self.runner,
            progress: self.progress,
            options,
            dockerfile: &dockerfile,
            ignore: Ignore::of_context(&options.context, &options.dockerfile)?,
            files: FileDigests::new(self.store),
            cache: BuildCache::new(self.store),
            lease,
            global_arguments: Vec::new(),
            finished: HashMap::new(),
            number: 0,
            total: needed
                .iter()
                .map(|stage| 1 + dockerfile.stages[*stage].instructions.len())
                .sum(),
            failure_told: Cell::new(false),
            instead_at: Cell::new(None),
            consumed: RefCell::default(),
        };
        session.global_arguments = session.global_arguments()?;
        let mut state = None;
        for stage in needed {
            let built = session.stage(stage)?;
            if stage == target {
                state = Some(built.clone());
            }
            session.finished.insert(stage, built);
        }
        let Some(state) = state else {
            return Err(Error::invalid("there is no stage to build"));
        };
        session.warn_of_unused_arguments();
        if let Err(error) = session.files.save() {
            tracing::warn!(%error, "cannot save the digests of the build context's files");
        }
        let mut config = ImageConfig {
            created: state.created.clone(),
            author: state.author.clone(),
            config: state.config.clone(),
            rootfs: RootFs {
                diff_ids: state.diff_ids.clone(),
                ..RootFs::default()
            },
            history: state.history.clone(),
            ..ImageConfig::empty()
        };
        config.config.labels.extend(options.labels.iter().cloned());
        self.store.publish(&config, &tags, &session.lease)
    }
}

/// One build under way.
pub(super) struct Session<'a> {
    pub store: &'a ImageStore,
    pub runner: &'a dyn StepRunner,
    pub progress: &'a dyn Fn(BuildEvent),
    pub options: &'a BuildOptions,
    pub dockerfile: &'a Dockerfile,
    pub ignore: Ignore,
    pub files: FileDigests,
    pub cache: BuildCache,
    pub lease: Lease,
    /// ARGs before the first FROM, with their values.
    pub global_arguments: Vec<(String, String)>,
    pub finished: HashMap<usize, StageState>,
    pub number: usize,
    pub total: usize,
    pub failure_told: Cell<bool>,
    /// The FROM whose image's ONBUILD is carried out: errors are shown there, because the
    /// instruction is in no file.
    pub instead_at: Cell<Option<Place>>,
    pub consumed: RefCell<BTreeSet<String>>,
}

impl Session<'_> {
    pub fn build_argument(&self, name: &str) -> Option<String> {
        let found = self
            .options
            .build_args
            .iter()
            .rev()
            .find(|(other, _)| other == name)?;
        self.consumed.borrow_mut().insert(name.to_owned());
        Some(found.1.clone())
    }

    fn global_arguments(&self) -> Result<Vec<(String, String)>> {
        let mut known: Vec<(String, String)> = Vec::new();
        for instruction in &self.dockerfile.arguments {
            let Command::Arg(arguments) = &instruction.command else {
                continue;
            };
            for (name, default) in arguments {
                let value = match (self.build_argument(name), default) {
                    (Some(value), _) => Some(value),
                    (None, Some(word)) => Some(self.expand(word, &|name| lookup(&known, name))?),
                    (None, None) => None,
                };
                if let Some(value) = value {
                    known.retain(|(other, _)| other != name);
                    known.push((name.clone(), value));
                }
            }
        }
        Ok(known)
    }

    /// A word with variables put in; what is wrong is shown at its place.
    pub fn expand(
        &self,
        word: &Word,
        variables: &dyn Fn(&str) -> Option<String>,
    ) -> Result<String> {
        expand(&word.text, self.dockerfile.source.escape, variables)
            .map_err(|message| self.wrong(word.place, message, ""))
    }

    /// An error at a place of the Dockerfile.
    pub fn wrong(
        &self,
        place: Place,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Error {
        self.diagnostic(place, message, help).into()
    }

    pub fn diagnostic(
        &self,
        place: Place,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Diagnostic {
        match self.instead_at.get() {
            Some(instead) => self.dockerfile.diagnostic(
                instead,
                format!("ONBUILD of the base image: {}", message.into()),
                help,
            ),
            None => self.dockerfile.diagnostic(place, message, help),
        }
    }

    /// Shows another error at a place of the Dockerfile.
    pub fn at(&self, place: Place, error: Error) -> Error {
        let diagnostic = self.diagnostic(place, error.to_string(), "");
        Error::new(error.kind(), diagnostic.to_string())
    }

    /// Carries out one step between its events.
    pub fn step<T>(
        &mut self,
        instruction: &Instruction,
        stage: Option<String>,
        work: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        self.number += 1;
        let number = self.number;
        (self.progress)(BuildEvent::Started {
            number,
            total: self.total,
            text: instruction.text.clone(),
            stage,
        });
        let start = Instant::now();
        let result = work(self);
        match &result {
            Ok(_) => (self.progress)(BuildEvent::Done {
                number,
                duration: start.elapsed(),
            }),
            Err(_) if self.failure_told.get() => {}
            Err(_) => self.tell_failure(instruction.place, None, Vec::new()),
        }
        result
    }

    pub fn tell_failure(&self, place: Place, exit_code: Option<i32>, last_lines: Vec<String>) {
        self.failure_told.set(true);
        (self.progress)(BuildEvent::Failed {
            number: self.number,
            exit_code,
            last_lines,
            file: self.dockerfile.source.file.clone(),
            line: place.line,
        });
    }

    fn warn_of_unused_arguments(&self) {
        let consumed = self.consumed.borrow();
        let unused: Vec<&str> = self
            .options
            .build_args
            .iter()
            .map(|(name, _)| name.as_str())
            .filter(|name| !consumed.contains(*name) && !PROXY_ARGUMENTS.contains(name))
            .collect();
        if !unused.is_empty() {
            (self.progress)(BuildEvent::Warning {
                text: format!("no ARG takes the build argument {}", unused.join(", ")),
            });
        }
    }
}

pub(super) fn lookup(list: &[(String, String)], name: &str) -> Option<String> {
    list.iter()
        .rev()
        .find(|(other, _)| other == name)
        .map(|(_, value)| value.clone())
}

fn read_dockerfile(options: &BuildOptions, name: &str) -> Result<String> {
    let missing = || {
        Error::invalid(format!(
            "no Dockerfile '{name}': name it with --file, or write one"
        ))
    };
    // The context comes from a client: a symlink in it is followed inside only.
    let bytes = match options.dockerfile.strip_prefix(&options.context) {
        Ok(inside) => Rooted::open(&options.context)?
            .read(inside, LARGEST_DOCKERFILE)?
            .ok_or_else(missing)?,
        Err(_) => match std::fs::read(&options.dockerfile) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(missing()),
            other => other.context(|| format!("read the Dockerfile '{name}'"))?,
        },
    };
    String::from_utf8(bytes)
        .map_err(|error| Error::invalid(format!("'{name}' is not UTF-8 text")).with_source(error))
}

fn find_target(dockerfile: &Dockerfile, target: Option<&str>, file: &str) -> Result<usize> {
    let last = dockerfile.stages.len() - 1;
    let Some(target) = target.filter(|target| !target.is_empty()) else {
        return Ok(last);
    };
    if let Some(stage) = stage_named(dockerfile, target, dockerfile.stages.len()) {
        return Ok(stage);
    }
    let names: Vec<_> = dockerfile
        .stages
        .iter()
        .filter_map(|stage| stage.name.as_deref())
        .collect();
    Err(Error::invalid(format!(
        "no stage '{target}' in {file}: its stages are {}",
        if names.is_empty() {
            format!("0 to {last}")
        } else {
            names.join(", ")
        }
    )))
}

/// The stage that a name or number means, among the first `before` ones.
pub(super) fn stage_named(dockerfile: &Dockerfile, name: &str, before: usize) -> Option<usize> {
    let lower = name.to_ascii_lowercase();
    let stages = &dockerfile.stages[..before];
    stages
        .iter()
        .position(|stage| stage.name.as_deref() == Some(lower.as_str()))
        .or_else(|| name.parse().ok().filter(|number| *number < before))
}

/// The stages that the target is made of, in the order of the file. Names with variables in them
/// may mean any stage, so all earlier ones are taken then.
fn needed_stages(dockerfile: &Dockerfile, target: usize) -> BTreeSet<usize> {
    let mut needed = BTreeSet::new();
    let mut open = vec![target];
    while let Some(index) = open.pop() {
        if !needed.insert(index) {
            continue;
        }
        let stage = &dockerfile.stages[index];
        let mut names = Vec::new();
        if let Command::From { image, .. } = &stage.from.command {
            // FROM knows names only, not numbers.
            if image.text.parse::<usize>().is_err() {
                names.push(image.text.as_str());
            }
        }
        for instruction in &stage.instructions {
            match &instruction.command {
                Command::Copy(copy) => names.extend(copy.from.as_ref().map(|from| &*from.text)),
                Command::Run(run) => {
                    names.extend(run.mounts.iter().filter_map(|(mount, _)| match mount {
                        crate::dockerfile::RunMount::Bind { from, .. } => from.as_deref(),
                        _ => None,
                    }));
                }
                _ => {}
            }
        }
        for name in names {
            if name.contains('$') {
                open.extend(0..index);
            } else {
                open.extend(stage_named(dockerfile, name, index));
            }
        }
    }
    needed
}

/// Gives a new upper directory the owner, mode and attributes of the root that it covers.
pub(super) fn prepare_upper(root: &Rooted, upper: &std::path::Path) -> Result<()> {
    use std::os::fd::AsFd;
    let from = root
        .directory("".as_ref())
        .context(|| "open the image's root")?;
    let to = Rooted::open(upper)?;
    let to = to
        .directory("".as_ref())
        .context(|| "open the layer's root")?;
    tree::Copier::default().directory_metadata(from.as_fd(), to.as_fd())
}
