//! Single commands in sandboxes that nobody is to see: the steps of a build.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bulkhead_model::{
    ByteSize, EtcFiles, ExitStatus, Kind, Mount, NetworkMode, ProcessSpec, Resources, Result,
    RootFilesystem, SandboxSpec, Security,
};

use crate::engine::{Engine, random_id};
use crate::ports::{Output, StartRequest};

/// A command over a root filesystem of the caller's.
#[derive(Debug, Clone)]
pub struct Step {
    pub kind: Kind,
    pub root: RootFilesystem,
    pub process: ProcessSpec,
    pub mounts: Vec<Mount>,
    /// Only loopback.
    pub no_network: bool,
    /// A directory for the step's own files, made by the caller and removed by it.
    pub scratch: PathBuf,
}

impl Engine {
    /// Runs a command to its end, with the default network unless told otherwise.
    ///
    /// # Errors
    /// If it could not be run. Nothing of the sandbox is left either way.
    pub async fn run_step(
        &self,
        step: Step,
        mut output: impl FnMut(&[u8]) + Send,
    ) -> Result<ExitStatus> {
        let inner = &self.inner;
        let id = random_id()?;
        let attachments = if step.no_network {
            Vec::new()
        } else {
            inner.join_default_network(&id).await?
        };
        let network = match attachments.first() {
            None => NetworkMode::None,
            Some(attachment) => NetworkMode::Bridge(vec![attachment.endpoint.clone()]),
        };
        let resolv_conf = network
            .endpoints()
            .first()
            .map(|endpoint| format!("nameserver {}\n", endpoint.gateway))
            .unwrap_or_default();
        let run_dir = inner.run_dir(&id);
        let spec = SandboxSpec {
            name: format!("build-{}", &id[..12]),
            id: id.clone(),
            kind: step.kind,
            hostname: "buildkitsandbox".to_owned(),
            process: step.process,
            root: step.root,
            mounts: step.mounts,
            network,
            etc: EtcFiles {
                hosts: "127.0.0.1\tlocalhost buildkitsandbox\n::1\tlocalhost\n".to_owned(),
                resolv_conf,
                hostname: "buildkitsandbox\n".to_owned(),
            },
            resources: Resources::default(),
            security: Security {
                init: true,
                ..Security::default()
            },
            sysctls: BTreeMap::new(),
            shm_size: ByteSize::from_mib(64),
            state_dir: step.scratch.clone(),
            run_dir: run_dir.clone(),
        };
        let run = async {
            std::fs::create_dir_all(&run_dir).map_err(|error| {
                bulkhead_model::Error::host(format!("make directory {}", run_dir.display()))
                    .with_source(error)
            })?;
            // The name server must know the network before the command asks it.
            inner.topology_changed();
            let request = StartRequest {
                spec,
                labels: BTreeMap::new(),
                log_file: step.scratch.join("log.jsonl"),
                status_file: step.scratch.join("status.json"),
            };
            let remote = inner.launcher.launch(request).await?;
            let mut session = remote.attach(false).await?;
            remote.start().await?;
            let mut exit = None;
            while let Some(chunk) = session.output.recv().await {
                match chunk {
                    Output::Stdout(data) | Output::Stderr(data) => output(&data),
                    Output::Exited(status) => exit = Some(status),
                }
            }
            match exit {
                Some(exit) => Ok(exit),
                None => remote.wait().await.map(|ending| ending.exit),
            }
        };
        let done = run.await;
        let cleaned = inner.launcher.clean(&id).await;
        inner.give_back(&attachments);
        let exit = done?;
        cleaned?;
        Ok(exit)
    }
}
