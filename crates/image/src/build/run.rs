use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bulkhead_model::{ByteSize, Mount, MountSource, Result};

use super::RunStep;
use super::builder::{PROXY_ARGUMENTS, Session, prepare_upper};
use super::cache::CachedStep;
use super::event::Lines;
use super::selection::Origin;
use super::stage::StageState;
use super::tree_digest::TreeDigest;
use crate::archive::is_opaque;
use crate::context::Ignore;
use crate::dockerfile::{
    CommandLine, Instruction, Marker, Place, Run, RunMount, join, shell, with_shell,
};
use crate::failure::Context;
use crate::rooted::Rooted;
use crate::store::Temporary;
use crate::tree::Copier;
use crate::{Digest, merged};

/// Where a here-document that is a script of its own (`#!`) is put for its command.
const SCRIPT: &str = "/.bulkhead-heredoc";

/// What a sandbox may find missing in an image and make, only to mount over it.
const MOUNT_POINTS: [&str; 6] = [
    "etc/resolv.conf",
    "etc/hosts",
    "etc/hostname",
    "dev",
    "proc",
    "sys",
];

impl Session<'_> {
    pub fn run(
        &mut self,
        state: &StageState,
        stage: usize,
        instruction: &Instruction,
        run: &Run,
    ) -> Result<CachedStep> {
        let (args, script) = command(state, run);
        let env = state.environment();
        let mut digester = state.digester("run");
        for arg in &args {
            digester.field(arg);
        }
        digester.field(script.as_deref().unwrap_or_default());
        let proxy = |entry: &&String| {
            let name = entry.split('=').next().unwrap_or_default();
            !PROXY_ARGUMENTS.contains(&name)
        };
        for entry in env.iter().filter(proxy) {
            digester.field(entry);
        }
        digester.field(run.network.as_deref().unwrap_or("default"));
        for (mount, place) in &run.mounts {
            digester.field(format!("{mount:?}"));
            if let RunMount::Bind { source, from, .. } = mount {
                digester.field(
                    self.bind_digest(source, from.as_deref(), stage, *place)?
                        .bytes(),
                );
            }
        }
        let key = digester.finish();
        self.remembered(key, |session| {
            session.carry_out(state, stage, instruction, run, args, env, script)
        })
    }

    #[allow(clippy::too_many_arguments)]
    fn carry_out(
        &mut self,
        state: &StageState,
        stage: usize,
        instruction: &Instruction,
        run: &Run,
        args: Vec<String>,
        env: Vec<String>,
        script: Option<String>,
    ) -> Result<Option<Digest>> {
        let temporary = self.store.temporary(&self.lease)?;
        let (upper, work) = (temporary.directory("upper")?, temporary.directory("work")?);
        let layers = self.layers(state)?;
        let mut mounts = Vec::new();
        let mut locks = Vec::new();
        for (number, (mount, place)) in run.mounts.iter().enumerate() {
            mounts.push(self.mount(state, stage, mount, *place, &temporary, number, &mut locks)?);
        }
        if let Some(script) = script {
            let path = temporary.path().join("script");
            std::fs::write(&path, script).context(|| "write a here-document")?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
                .context(|| "write a here-document")?;
            mounts.push(Mount {
                target: SCRIPT.to_owned(),
                source: MountSource::Bind(path),
                read_only: true,
            });
        }
        let mut points: Vec<PathBuf> = MOUNT_POINTS.iter().map(PathBuf::from).collect();
        points.extend(
            mounts
                .iter()
                .map(|mount| PathBuf::from(mount.target.trim_start_matches('/'))),
        );
        let missing = {
            let root = merged::mount(&layers, None)?;
            prepare_upper(&root, &upper)?;
            MissingPoints::of(&root, &points)
        };
        let root_before = metadata_of(&upper)?;
        let step = RunStep {
            layers,
            chain_id: state.chain_id(),
            upper: upper.clone(),
            work,
            args,
            env,
            cwd: match state.config.working_dir.as_str() {
                "" => "/".to_owned(),
                path => path.to_owned(),
            },
            user: state.config.user.clone(),
            mounts,
            no_network: run.network.as_deref() == Some("none"),
        };
        let mut lines = Lines::new(self.number, self.progress);
        let result = self.runner.run(&step, &mut lines);
        lines.finish();
        let last_lines: Vec<String> = lines.last.into_iter().collect();
        match result {
            Ok(0) => {}
            Ok(code) => {
                self.tell_failure(instruction.place, Some(code), last_lines);
                return Err(self.wrong(
                    instruction.place,
                    format!("the command ended with exit code {code}"),
                    "",
                ));
            }
            Err(error) => {
                self.tell_failure(instruction.place, None, last_lines);
                return Err(self.at(instruction.place, error));
            }
        }
        missing.clean(&upper);
        let untouched = std::fs::read_dir(&upper)
            .context(|| "read the step's layer")?
            .next()
            .is_none();
        if untouched && metadata_of(&upper)? == root_before {
            return Ok(None);
        }
        let layer = self.store.commit_directory(&upper, &self.lease)?;
        Ok(Some(layer.diff_id))
    }

    fn bind_digest(
        &self,
        source: &str,
        from: Option<&str>,
        stage: usize,
        place: Place,
    ) -> Result<Digest> {
        if let Some(from) = from {
            return Ok(self.source_image(from, stage, place)?.1);
        }
        let origin = Origin {
            root: Rooted::open(&self.options.context)?,
            ignore: &self.ignore,
            owners: false,
        };
        let mut digester = crate::digest::Digester::default();
        let selected = origin
            .select(source)
            .map_err(|error| self.at(place, error))?;
        for selected in &selected {
            let filter = |below: &Path, _: bool| !self.ignore.ignores(&selected.path.join(below));
            TreeDigest {
                digester: &mut digester,
                files: &self.files,
                owners: false,
                filter: &filter,
            }
            .selected(selected)?;
        }
        Ok(digester.finish())
    }

    #[allow(clippy::too_many_arguments)]
    fn mount(
        &self,
        state: &StageState,
        stage: usize,
        mount: &RunMount,
        place: Place,
        temporary: &Temporary,
        number: usize,
        locks: &mut Vec<File>,
    ) -> Result<Mount> {
        Ok(match mount {
            RunMount::Tmpfs { target, size } => Mount {
                target: join(&state.config.working_dir, target),
                source: MountSource::Tmpfs {
                    size: size.map(ByteSize),
                    mode: None,
                },
                read_only: false,
            },
            RunMount::Cache {
                id,
                target,
                locked,
                mode,
                uid,
                gid,
                read_only,
            } => {
                let name = &Digest::of(id).hex()[..16];
                let path = self.store.directory().join("cache-mounts").join(name);
                if *locked {
                    let lock = crate::store::open_lock(&path.with_extension("lock"))?;
                    lock.lock().context(|| "wait for a locked cache mount")?;
                    locks.push(lock);
                }
                make_cache_directory(&path, mode.unwrap_or(0o755), (*uid, *gid))?;
                Mount {
                    target: join(&state.config.working_dir, target),
                    source: MountSource::Bind(path),
                    read_only: *read_only,
                }
            }
            RunMount::Bind {
                target,
                source,
                from,
            } => Mount {
                target: join(&state.config.working_dir, target),
                source: MountSource::Bind(self.bind_source(
                    source,
                    from.as_deref(),
                    stage,
                    place,
                    &temporary.directory(&format!("bind-{number}"))?,
                )?),
                read_only: true,
            },
        })
    }

    /// Copies what a bind mount shows to a directory of its own: a stage is no directory that
    /// could be mounted, and what `.dockerignore` leaves out must not be seen.
    fn bind_source(
        &self,
        source: &str,
        from: Option<&str>,
        stage: usize,
        place: Place,
        directory: &Path,
    ) -> Result<PathBuf> {
        let none = Ignore::default();
        let origin = match from {
            Some(from) => Origin {
                root: merged::mount(&self.source_image(from, stage, place)?.0, None)?,
                ignore: &none,
                owners: true,
            },
            None => Origin {
                root: Rooted::open(&self.options.context)?,
                ignore: &self.ignore,
                owners: false,
            },
        };
        let found = origin
            .select(source)
            .map_err(|error| self.at(place, error))?;
        let [selected] = found.as_slice() else {
            return Err(self.wrong(
                place,
                format!("'{source}' is not one file or directory"),
                "",
            ));
        };
        let filter = |below: &Path, _: bool| !origin.ignore.ignores(&selected.path.join(below));
        let mut copier = Copier {
            owner: (!origin.owners).then_some((0, 0)),
            filter: Some(&filter),
            keep_links: true,
            ..Copier::default()
        };
        let to = Rooted::open(directory)?;
        let to = to
            .directory("".as_ref())
            .context(|| "open a mount's directory")?;
        if selected.is_directory() {
            copier.content(selected.fd.as_fd(), to.as_fd())?;
            copier.directory_metadata(selected.fd.as_fd(), to.as_fd())?;
            return Ok(directory.to_owned());
        }
        let file = rustix::io::fcntl_dupfd_cloexec(&selected.fd, 3).context(|| "open a file")?;
        copier.file(
            File::from(file),
            &selected.stat,
            to.as_fd(),
            "file".as_ref(),
        )?;
        Ok(directory.join("file"))
    }
}

/// The arguments of the command, and the script that it needs at [`SCRIPT`].
fn command(state: &StageState, run: &Run) -> (Vec<String>, Option<String>) {
    let text = match &run.command {
        CommandLine::Shell(text) if !run.heredocs.is_empty() => text,
        command => return (with_shell(&state.config, command), None),
    };
    if Marker::parse(text.trim()).is_some() {
        // The here-document is the command.
        let content = run.heredocs[0].content.clone();
        if content.starts_with("#!") {
            return (vec![SCRIPT.to_owned()], Some(content));
        }
        let mut args = shell(&state.config);
        args.push(content);
        return (args, None);
    }
    let mut script = text.clone();
    for heredoc in &run.heredocs {
        script.push('\n');
        script.push_str(&heredoc.content);
        script.push_str(&heredoc.name);
    }
    script.push('\n');
    let mut args = shell(&state.config);
    args.push(script);
    (args, None)
}

/// Mount points that an image does not have: they are made for a command, and are no part of
/// what it did.
struct MissingPoints {
    /// With the directories above them that are missing too; the deepest first.
    paths: Vec<PathBuf>,
    /// The directories that the image has and that they are made in, with owner and mode.
    parents: Vec<(PathBuf, Metadata)>,
}

/// Mode, owner and group.
type Metadata = (u32, u32, u32);

impl MissingPoints {
    fn of(root: &Rooted, points: &[PathBuf]) -> Self {
        let mut paths = Vec::new();
        let mut parents = Vec::new();
        for point in points {
            let mut made_in = None;
            for path in point.ancestors() {
                if path.as_os_str().is_empty() {
                    break;
                }
                match root.open_at(path, rustix::fs::OFlags::PATH) {
                    Err(_) => paths.push(path.to_owned()),
                    Ok(fd) => {
                        made_in = rustix::fs::fstat(fd).ok().map(|stat| (path, stat));
                        break;
                    }
                }
            }
            if let Some((path, stat)) = made_in
                && path != point
            {
                parents.push((path.to_owned(), (stat.st_mode, stat.st_uid, stat.st_gid)));
            }
        }
        paths.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
        paths.dedup();
        Self { paths, parents }
    }

    /// Removes them from a step's upper directory, where they are still empty; and the
    /// directories that overlayfs copied up only to make them.
    fn clean(&self, upper: &Path) {
        for path in &self.paths {
            remove_if_empty(&upper.join(path));
        }
        for (path, before) in &self.parents {
            let path = upper.join(path);
            let opaque = File::open(&path)
                .ok()
                .and_then(|directory| is_opaque(directory.as_fd()).ok());
            if opaque == Some(false) && metadata_of(&path).is_ok_and(|now| now == *before) {
                remove_if_empty(&path);
            }
        }
    }
}

/// Removes a file or directory with nothing in it.
fn remove_if_empty(path: &Path) {
    let Ok(metadata) = std::fs::symlink_metadata(path) else {
        return;
    };
    // Nobody else has the step's directory now. What is not empty stays.
    let _ = if metadata.is_dir() {
        std::fs::remove_dir(path)
    } else if metadata.is_file() && metadata.len() == 0 {
        std::fs::remove_file(path)
    } else {
        Ok(())
    };
}

fn metadata_of(directory: &Path) -> Result<Metadata> {
    let metadata =
        std::fs::metadata(directory).context(|| format!("read {}", directory.display()))?;
    Ok((metadata.mode(), metadata.uid(), metadata.gid()))
}

fn make_cache_directory(path: &Path, mode: u32, (uid, gid): (u32, u32)) -> Result<()> {
    let what = || format!("make the cache directory {}", path.display());
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(error).context(what),
    }
    std::os::unix::fs::chown(path, Some(uid), Some(gid)).context(what)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).context(what)
}
