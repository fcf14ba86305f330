//! Runs a Dockerfile's commands in containers of this host.

use std::io::Write;
use std::path::PathBuf;

use bulkhead_engine::{Engine, Step};
use bulkhead_image::build::{RunStep, StepRunner};
use bulkhead_model::{Error, Kind, ProcessSpec, Result, RootFilesystem};
use tokio::runtime::Handle;

pub(crate) struct ContainerRunner {
    engine: Engine,
    runtime: Handle,
    scratch: PathBuf,
}

impl ContainerRunner {
    /// `scratch` is a directory of the build's own.
    pub(crate) fn new(engine: Engine, runtime: Handle, scratch: PathBuf) -> Self {
        Self {
            engine,
            runtime,
            scratch,
        }
    }
}

impl StepRunner for ContainerRunner {
    fn run(&self, step: &RunStep, output: &mut dyn Write) -> Result<i32> {
        let writable = step
            .upper
            .parent()
            .ok_or_else(|| Error::invalid("the step's upper directory has no parent"))?;
        let scratch = tempfile::tempdir_in(&self.scratch)
            .map_err(|error| Error::host("make a directory for a build step").with_source(error))?;
        let sandbox = Step {
            kind: Kind::Container,
            root: RootFilesystem {
                layers: step.layers.clone(),
                chain_id: step.chain_id.clone(),
                writable: writable.to_owned(),
                size: None,
                read_only: false,
            },
            process: ProcessSpec {
                args: step.args.clone(),
                env: step.env.clone(),
                cwd: step.cwd.clone(),
                user: step.user.clone(),
                ..ProcessSpec::default()
            },
            mounts: step.mounts.clone(),
            no_network: step.no_network,
            scratch: scratch.path().to_owned(),
        };
        let (chunks, received) = std::sync::mpsc::channel::<Vec<u8>>();
        let engine = self.engine.clone();
        let running = self.runtime.spawn(async move {
            engine
                .run_step(sandbox, |data| {
                    // The reader below lives until this sender is dropped.
                    if chunks.send(data.to_vec()).is_err() {
                        tracing::debug!("output of a build step is not wanted any more");
                    }
                })
                .await
        });
        let mut written = Ok(());
        for chunk in received {
            written = written.and_then(|()| output.write_all(&chunk));
        }
        let exit = self
            .runtime
            .block_on(running)
            .map_err(|error| Error::host("a task of the daemon died").with_source(error))??;
        written.map_err(|error| Error::host("report a build step's output").with_source(error))?;
        Ok(exit.code)
    }
}
