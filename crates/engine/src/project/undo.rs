use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use bulkhead_model::Result;

use crate::engine::Engine;
use crate::entry::lock;
use crate::lifecycle::StopOptions;

/// What an `up` has done so far, in order.
#[derive(Default)]
pub(super) struct Journal {
    steps: Mutex<Vec<Step>>,
}

pub(super) enum Step {
    Network {
        id: String,
    },
    Volume {
        name: String,
    },
    /// A new sandbox.
    Created {
        id: String,
    },
    /// One that was there and stood still.
    Started {
        id: String,
    },
    /// One that makes room for a new one: renamed, and stopped if it ran.
    SetAside {
        id: String,
        name: String,
        ran: bool,
    },
}

impl Journal {
    pub(super) fn note(&self, step: Step) {
        lock(&self.steps).push(step);
    }

    /// Whether a sandbox only waits for its successor to stand.
    pub(super) fn is_set_aside(&self, sandbox: &str) -> bool {
        lock(&self.steps)
            .iter()
            .any(|step| matches!(step, Step::SetAside { id, .. } if id == sandbox))
    }

    /// Makes undone what was done, the last first.
    pub(super) async fn undo(self: &Arc<Self>, engine: &Engine) {
        let steps = std::mem::take(&mut *lock(&self.steps));
        for step in steps.into_iter().rev() {
            if let Err(error) = undo_step(engine, step).await {
                tracing::error!(%error, "a step of a failed up could not be undone");
            }
        }
    }

    /// Everything stands: what was set aside goes.
    pub(super) async fn commit(self: &Arc<Self>, engine: &Engine) -> Result<()> {
        let steps = std::mem::take(&mut *lock(&self.steps));
        for step in steps {
            if let Step::SetAside { id, .. } = step {
                engine.remove(&id, true, false).await?;
            }
        }
        Ok(())
    }
}

async fn undo_step(engine: &Engine, step: Step) -> Result<()> {
    match step {
        Step::Network { id } => engine.remove_network(&id).await,
        Step::Volume { name } => engine.remove_volume(&name).await,
        Step::Created { id } => match engine.remove(&id, true, true).await {
            // One that removes itself was quicker.
            Err(error) if error.kind() == bulkhead_model::ErrorKind::NotFound => Ok(()),
            removed => removed,
        },
        Step::Started { id } => {
            let at_once = StopOptions {
                timeout: Some(Duration::from_secs(1)),
                signal: None,
            };
            engine.stop(&id, at_once).await.map(drop)
        }
        Step::SetAside { id, name, ran } => {
            engine.rename(&id, &name)?;
            if ran {
                engine.start(&id).await?;
            }
            Ok(())
        }
    }
}
