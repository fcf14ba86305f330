use std::path::PathBuf;

use bulkhead_model::{Error, Result};

use super::BuildEvent;
use super::builder::{PROXY_ARGUMENTS, Session, lookup, prepare_upper, stage_named};
use super::cache::CachedStep;
use crate::config::{ContainerConfig, History, RootFs, now};
use crate::digest::Digester;
use crate::dockerfile::{
    Command, Instruction, Place, apply, parse_on_build, set_variable, variable,
};
use crate::store::encode;
use crate::{Digest, merged};

/// A stage so far.
#[derive(Debug, Clone)]
pub(super) struct StageState {
    pub config: ContainerConfig,
    /// Bottom first.
    pub diff_ids: Vec<Digest>,
    pub history: Vec<History>,
    /// ARGs that were declared, with their values.
    pub arguments: Vec<(String, String)>,
    /// Of everything that led here.
    pub key: Digest,
    pub created: Option<String>,
    pub author: Option<String>,
    /// A CMD of this stage's own: an ENTRYPOINT takes the base's CMD away, but not this one.
    pub own_cmd: bool,
}

impl StageState {
    pub fn variable(&self, name: &str) -> Option<String> {
        variable(&self.config.env, name).or_else(|| lookup(&self.arguments, name))
    }

    /// The environment of a command: ENV wins over ARG.
    pub fn environment(&self) -> Vec<String> {
        let mut env = self.config.env.clone();
        for (name, value) in &self.arguments {
            if variable(&self.config.env, name).is_none() {
                set_variable(&mut env, name, value);
            }
        }
        env
    }

    pub fn chain_id(&self) -> String {
        RootFs {
            diff_ids: self.diff_ids.clone(),
            ..RootFs::default()
        }
        .chain_id()
    }

    /// Starts the key of a step: the key so far and the step's name.
    pub fn digester(&self, step: &str) -> Digester {
        let mut digester = Digester::default();
        digester.field(self.key.bytes());
        digester.field(step);
        digester
    }

    fn take(&mut self, step: CachedStep, instruction: &Instruction) {
        self.history.push(History {
            created: Some(step.created.clone()),
            created_by: Some(instruction.text.clone()),
            empty_layer: step.layer.is_none(),
            ..History::default()
        });
        self.diff_ids.extend(step.layer);
        self.created = Some(step.created);
        self.key = step.next;
    }
}

impl Session<'_> {
    pub fn stage(&mut self, index: usize) -> Result<StageState> {
        let dockerfile = self.dockerfile;
        let stage = &dockerfile.stages[index];
        let shown = (dockerfile.stages.len() > 1)
            .then(|| stage.name.clone().unwrap_or_else(|| index.to_string()));
        let mut state = self.step(&stage.from, shown.clone(), |session| session.base(index))?;
        let triggers = self.triggers(&mut state, stage.from.place)?;
        self.total += triggers.len();
        for instruction in &triggers {
            self.instead_at.set(Some(stage.from.place));
            self.step(instruction, shown.clone(), |session| {
                session.instruction(&mut state, index, instruction)
            })?;
            self.instead_at.set(None);
        }
        for instruction in &stage.instructions {
            self.step(instruction, shown.clone(), |session| {
                session.instruction(&mut state, index, instruction)
            })?;
        }
        Ok(state)
    }

    /// What FROM starts with.
    fn base(&mut self, index: usize) -> Result<StageState> {
        let Command::From {
            image, platform, ..
        } = &self.dockerfile.stages[index].from.command
        else {
            return Err(Error::invalid("a stage without FROM"));
        };
        let global =
            |name: &str| lookup(&self.global_arguments, name).or_else(|| platform_argument(name));
        if let Some(word) = platform {
            let platform = self.expand(word, &global)?;
            let own = platform_argument("TARGETPLATFORM").unwrap_or_default();
            if !platform.is_empty() && platform != own {
                return Err(self.wrong(
                    word.place,
                    format!("platform '{platform}' is not this machine's"),
                    format!("this machine builds for '{own}'"),
                ));
            }
        }
        let name = self.expand(image, &global)?;
        if name.is_empty() {
            return Err(self.wrong(
                image.place,
                format!("'{}' names no image", image.text),
                "declare the variable with ARG before the first FROM, with a default",
            ));
        }
        if name.parse::<usize>().is_err()
            && let Some(stage) = stage_named(self.dockerfile, &name, index)
            && let Some(state) = self.finished.get(&stage)
        {
            return Ok(StageState {
                own_cmd: false,
                ..state.clone()
            });
        }
        let mut state = StageState {
            config: ContainerConfig::default(),
            diff_ids: Vec::new(),
            history: Vec::new(),
            arguments: Vec::new(),
            key: Digest::of("scratch"),
            created: None,
            author: None,
            own_cmd: false,
        };
        if name != "scratch" {
            let base = self
                .store
                .resolve(&name)
                .map_err(|error| self.at(image.place, error))?;
            let mut digester = Digester::default();
            digester.field(&base.chain_id);
            digester.field(encode(&base.config.config)?);
            state.key = digester.finish();
            state.config = base.config.config;
            state.diff_ids = base.config.rootfs.diff_ids;
            state.history = base.config.history;
            state.created = base.config.created;
            state.author = base.config.author;
        }
        if !state.diff_ids.is_empty() && variable(&state.config.env, "PATH").is_none() {
            set_variable(
                &mut state.config.env,
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            );
        }
        for name in PROXY_ARGUMENTS {
            if let Some(value) = self.build_argument(name) {
                state.arguments.push((name.to_owned(), value));
            }
        }
        Ok(state)
    }

    /// The base image's ONBUILD instructions, which are carried out now and not passed on.
    fn triggers(&self, state: &mut StageState, place: Place) -> Result<Vec<Instruction>> {
        let mut triggers = Vec::new();
        for text in std::mem::take(&mut state.config.on_build) {
            let parsed = parse_on_build("ONBUILD of the base image", &text)?;
            triggers.extend(parsed.into_iter().map(|mut instruction| {
                instruction.text = format!("ONBUILD {}", instruction.text);
                instruction.place = place;
                instruction
            }));
        }
        Ok(triggers)
    }

    fn instruction(
        &mut self,
        state: &mut StageState,
        stage: usize,
        instruction: &Instruction,
    ) -> Result<()> {
        let step = match &instruction.command {
            Command::Arg(arguments) => {
                for (name, default) in arguments {
                    let value = match (self.build_argument(name), default) {
                        (Some(value), _) => Some(value),
                        (None, Some(word)) => {
                            Some(self.expand(word, &|name| state.variable(name))?)
                        }
                        (None, None) => {
                            lookup(&self.global_arguments, name).or_else(|| platform_argument(name))
                        }
                    };
                    state.arguments.retain(|(other, _)| other != name);
                    if let Some(value) = value {
                        state.arguments.push((name.clone(), value));
                    }
                }
                // An argument counts where it is used.
                return Ok(());
            }
            Command::Run(run) => self.run(state, stage, instruction, run)?,
            Command::Copy(copy) => self.copy(state, stage, instruction, copy)?,
            command => {
                let mut config = state.config.clone();
                let variables = |name: &str| state.variable(name);
                apply(
                    &mut config,
                    command,
                    self.dockerfile.source.escape,
                    &variables,
                )
                .map_err(|(place, message)| self.wrong(place, message, ""))?;
                match command {
                    Command::Maintainer(name) => state.author = Some(name.clone()),
                    Command::Cmd(_) => state.own_cmd = true,
                    Command::Entrypoint(_) if !state.own_cmd => config.cmd = None,
                    _ => {}
                }
                state.config = config;
                let mut digester = state.digester("configuration");
                digester.field(encode(&state.config)?);
                let key = digester.finish();
                if matches!(command, Command::Workdir(_)) {
                    self.remembered(key, |session| session.working_directory(state))?
                } else {
                    self.remembered(key, |_| Ok(None))?
                }
            }
        };
        state.take(step, instruction);
        Ok(())
    }

    /// Takes a step's result from the cache, or makes it and remembers it.
    pub fn remembered(
        &mut self,
        key: Digest,
        make: impl FnOnce(&mut Self) -> Result<Option<Digest>>,
    ) -> Result<CachedStep> {
        if let Some(step) = self.recall(&key) {
            return Ok(step);
        }
        let step = CachedStep {
            layer: make(self)?,
            created: now(),
            next: key,
        };
        self.cache.put(&key, &step)?;
        Ok(step)
    }

    pub fn recall(&self, key: &Digest) -> Option<CachedStep> {
        if self.options.no_cache {
            return None;
        }
        let step = self.cache.get(key)?;
        (self.progress)(BuildEvent::Cached {
            number: self.number,
        });
        Some(step)
    }

    pub fn layers(&self, state: &StageState) -> Result<Vec<PathBuf>> {
        self.store.layer_paths(&state.diff_ids)
    }

    /// Makes the working directory if the image does not have it.
    fn working_directory(&mut self, state: &StageState) -> Result<Option<Digest>> {
        let path = &state.config.working_dir;
        let layers = self.layers(state)?;
        let root = merged::mount(&layers, None)?;
        if root.directory(path.as_ref()).is_ok() {
            return Ok(None);
        }
        let owner = super::copy::owner(&root, &state.config.user)?;
        let temporary = self.store.temporary(&self.lease)?;
        let (upper, work) = (temporary.directory("upper")?, temporary.directory("work")?);
        prepare_upper(&root, &upper)?;
        drop(root);
        let root = merged::mount(&layers, Some((&upper, &work)))?;
        drop(root.make_directory(path.as_ref(), owner)?);
        drop(root);
        let layer = self.store.commit_directory(&upper, &self.lease)?;
        Ok(Some(layer.diff_id))
    }
}

/// Arguments about platforms, which need only be declared. There is one platform: this machine's.
fn platform_argument(name: &str) -> Option<String> {
    let architecture = crate::config::ImageConfig::empty().architecture;
    let (_, what) = name
        .split_once("TARGET")
        .or_else(|| name.split_once("BUILD"))
        .filter(|(before, _)| before.is_empty())?;
    match what {
        "PLATFORM" => Some(format!("linux/{architecture}")),
        "OS" => Some("linux".to_owned()),
        "ARCH" => Some(architecture),
        "VARIANT" => Some(String::new()),
        _ => None,
    }
}
