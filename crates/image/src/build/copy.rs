use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use bulkhead_model::{Error, ErrorKind, Result};

use super::builder::{Session, prepare_upper, stage_named};
use super::cache::CachedStep;
use super::selection::{Origin, Selected};
use super::stage::StageState;
use super::tree_digest::TreeDigest;
use crate::archive::{Unpack, decompress, unpack};
use crate::context::Ignore;
use crate::digest::Digester;
use crate::dockerfile::{Copy, Heredoc, Instruction, Place, Word, expand_text, join};
use crate::failure::Context;
use crate::rooted::Rooted;
use crate::tree::Copier;
use crate::{Digest, merged};

/// The largest passwd or group file that is read.
const LARGEST_USER_FILE: u64 = 4 << 20;

/// COPY or ADD, with its variables put in.
struct Plan {
    add: bool,
    sources: Vec<(String, Place)>,
    files: Vec<Heredoc>,
    /// Absolute, without a slash at its end.
    destination: String,
    /// It is a directory, whatever is copied.
    into_directory: bool,
    chown: Option<String>,
    mode: Option<u32>,
    exclude: Ignore,
}

impl Session<'_> {
    pub fn copy(
        &mut self,
        state: &StageState,
        stage: usize,
        instruction: &Instruction,
        copy: &Copy,
    ) -> Result<CachedStep> {
        let plan = self.plan(state, instruction, copy)?;
        let mut digester = state.digester(if plan.add { "add" } else { "copy" });
        plan.describe(&mut digester);
        let Some(from) = &copy.from else {
            let ignore = self.ignore.clone();
            let origin = Origin {
                root: Rooted::open(&self.options.context)?,
                ignore: &ignore,
                owners: false,
            };
            let selected = self.select(&origin, &plan, instruction)?;
            self.digest(&mut digester, &origin, &plan, &selected)?;
            let key = digester.finish();
            return self.remembered(key, |session| {
                session.copied(state, &plan, &origin, &selected, instruction.place)
            });
        };
        // Another stage's key stands for its content; if that key is new, the content decides.
        let name = self.expand(from, &|name| state.variable(name))?;
        let (layers, from_key) = self.source_image(&name, stage, from.place)?;
        let mut by_origin = digester.clone();
        by_origin.field("by origin");
        by_origin.field(from_key.bytes());
        for (source, _) in &plan.sources {
            by_origin.field(source);
        }
        let by_origin = by_origin.finish();
        if let Some(step) = self.recall(&by_origin) {
            return Ok(step);
        }
        let none = Ignore::default();
        let origin = Origin {
            root: merged::mount(&layers, None)?,
            ignore: &none,
            owners: true,
        };
        let selected = self.select(&origin, &plan, instruction)?;
        self.digest(&mut digester, &origin, &plan, &selected)?;
        let key = digester.finish();
        let step = self.remembered(key, |session| {
            session.copied(state, &plan, &origin, &selected, instruction.place)
        })?;
        self.cache.put(&by_origin, &step)?;
        Ok(step)
    }

    /// The layers of a stage before this one, or of an image, and what names their content.
    pub fn source_image(
        &self,
        name: &str,
        stage: usize,
        place: Place,
    ) -> Result<(Vec<std::path::PathBuf>, Digest)> {
        if let Some(index) = stage_named(self.dockerfile, name, stage)
            && let Some(state) = self.finished.get(&index)
        {
            return Ok((self.layers(state)?, state.key));
        }
        let image = self
            .store
            .resolve(name)
            .map_err(|error| self.at(place, error))?;
        Ok((image.layers, Digest::of(&image.chain_id)))
    }

    fn plan(&self, state: &StageState, instruction: &Instruction, copy: &Copy) -> Result<Plan> {
        let name = if copy.add { "ADD" } else { "COPY" };
        let variables = |name: &str| state.variable(name);
        let value = |word: &Word| self.expand(word, &variables);
        let optional = |word: &Option<Word>| word.as_ref().map(value).transpose();
        let mut sources = Vec::new();
        for word in &copy.sources {
            let source = value(word)?;
            let remote = ["http://", "https://", "git@", "ssh://"]
                .iter()
                .any(|scheme| source.starts_with(scheme));
            if copy.add && remote {
                return Err(self.wrong(
                    word.place,
                    "ADD of a URL or a repository is not supported",
                    "fetch it in a RUN, or put it into the build context",
                ));
            }
            sources.push((source, word.place));
        }
        let written = value(&copy.destination)?;
        let directory_form = written.ends_with('/') || written == "." || written.ends_with("/.");
        if sources.len() + copy.heredocs.len() > 1 && !directory_form {
            return Err(self.wrong(
                copy.destination.place,
                format!("{name} with several sources needs a directory as its destination"),
                format!("write it as '{written}/'"),
            ));
        }
        let mut files = copy.heredocs.clone();
        for file in files.iter_mut().filter(|file| file.expand) {
            file.content = expand_text(&file.content, self.dockerfile.source.escape, &variables)
                .map_err(|message| self.wrong(instruction.place, message, ""))?;
        }
        let mode = match optional(&copy.chmod)? {
            None => None,
            Some(text) => match u32::from_str_radix(&text, 8) {
                Ok(mode) if mode <= 0o7777 => Some(mode),
                _ => {
                    let place = copy
                        .chmod
                        .as_ref()
                        .map_or(instruction.place, |word| word.place);
                    return Err(self.wrong(
                        place,
                        format!("'{text}' is no mode"),
                        "write it in octal, as 755",
                    ));
                }
            },
        };
        let mut exclude = Vec::new();
        for word in &copy.exclude {
            exclude.push(value(word)?);
        }
        Ok(Plan {
            add: copy.add,
            sources,
            files,
            destination: join(&state.config.working_dir, &written),
            into_directory: directory_form,
            chown: optional(&copy.chown)?,
            mode,
            exclude: Ignore::parse(&exclude.join("\n")),
        })
    }

    /// Finds the sources.
    fn select(
        &self,
        origin: &Origin<'_>,
        plan: &Plan,
        instruction: &Instruction,
    ) -> Result<Vec<Selected>> {
        let mut selected = Vec::new();
        for (source, place) in &plan.sources {
            let found = origin
                .select(source)
                .map_err(|error| self.at_source(*place, error))?;
            selected.extend(found);
        }
        if selected.is_empty() && plan.files.is_empty() {
            let place = plan
                .sources
                .first()
                .map_or(instruction.place, |source| source.1);
            return Err(self.wrong(place, "no file fits", ""));
        }
        if selected.len() + plan.files.len() > 1 && !plan.into_directory {
            return Err(self.wrong(
                plan.sources
                    .first()
                    .map_or(instruction.place, |source| source.1),
                "several files fit, but the destination is no directory",
                format!("write the destination as '{}/'", plan.destination),
            ));
        }
        Ok(selected)
    }

    fn at_source(&self, place: Place, error: Error) -> Error {
        let help = match error.kind() {
            ErrorKind::NotFound => "paths are relative to the build context (or to --from's root)",
            _ => "",
        };
        let diagnostic = self.diagnostic(place, error.to_string(), help);
        // To the caller a missing file is wrong input, not a missing image.
        Error::invalid(diagnostic.to_string())
    }

    fn digest(
        &self,
        digester: &mut Digester,
        origin: &Origin<'_>,
        plan: &Plan,
        selected: &[Selected],
    ) -> Result<()> {
        for selected in selected {
            let filter = |below: &Path, _: bool| plan.wants(origin, selected, below);
            TreeDigest {
                digester,
                files: &self.files,
                owners: origin.owners,
                filter: &filter,
            }
            .selected(selected)?;
        }
        Ok(())
    }

    /// Copies, and makes a layer of what was copied.
    fn copied(
        &mut self,
        state: &StageState,
        plan: &Plan,
        origin: &Origin<'_>,
        selected: &[Selected],
        place: Place,
    ) -> Result<Option<Digest>> {
        let layers = self.layers(state)?;
        let temporary = self.store.temporary(&self.lease)?;
        let (upper, work) = (temporary.directory("upper")?, temporary.directory("work")?);
        {
            let root = merged::mount(&layers, None)?;
            prepare_upper(&root, &upper)?;
        }
        let root = merged::mount(&layers, Some((&upper, &work)))?;
        plan.carry_out(&root, origin, selected, self.store.limits())
            .map_err(|error| match error.kind() {
                ErrorKind::Host => error,
                _ => self.at(place, error),
            })?;
        drop(root);
        let layer = self.store.commit_directory(&upper, &self.lease)?;
        Ok(Some(layer.diff_id))
    }
}

impl Plan {
    /// Adds everything but the files' content to the key.
    fn describe(&self, digester: &mut Digester) {
        digester.field(&self.destination);
        digester.field([u8::from(self.into_directory)]);
        digester.field(self.chown.as_deref().unwrap_or("-"));
        digester.field(self.mode.map_or(u32::MAX, |mode| mode).to_le_bytes());
        digester.field(format!("{:?}", self.exclude));
        for file in &self.files {
            digester.field(&file.name);
            digester.field(&file.content);
        }
    }

    fn wants(&self, origin: &Origin<'_>, selected: &Selected, below: &Path) -> bool {
        !origin.ignore.ignores(&selected.path.join(below)) && !self.exclude.ignores(below)
    }

    fn carry_out(
        &self,
        root: &Rooted,
        origin: &Origin<'_>,
        selected: &[Selected],
        limits: crate::archive::Limits,
    ) -> Result<()> {
        let chown = match &self.chown {
            Some(user) => Some(copy_owner(root, user)?),
            None => None,
        };
        // A context's owners are the builder's; an image's are kept.
        let owner = chown.or((!origin.owners).then_some((0, 0)));
        let new_owner = chown.unwrap_or((0, 0));
        for file in &self.files {
            let (directory, name) = self.place(root, file.name.as_ref(), new_owner)?;
            write_file(
                &directory,
                &name,
                file,
                new_owner,
                self.mode.unwrap_or(0o644),
            )?;
        }
        for selected in selected {
            let filter = |below: &Path, _: bool| self.wants(origin, selected, below);
            let mut copier = Copier {
                owner,
                mode: self.mode,
                filter: Some(&filter),
                ..Copier::default()
            };
            if selected.is_directory() {
                let existed = root.directory(self.destination.as_ref()).is_ok();
                let to = root.make_directory(self.destination.as_ref(), new_owner)?;
                copier.content(selected.fd.as_fd(), to.as_fd())?;
                if !existed {
                    copier.directory_metadata(selected.fd.as_fd(), to.as_fd())?;
                }
                continue;
            }
            let mut file = duplicate(&selected.fd)?;
            if self.add && !origin.owners && is_archive(&mut file)? {
                let to = root.make_directory(self.destination.as_ref(), new_owner)?;
                let how = Unpack {
                    limits,
                    owner: chown,
                    ..Unpack::default()
                };
                unpack(decompress(&file)?, &Rooted::from_fd(to), how)?;
                continue;
            }
            if self.exclude.ignores(Path::new(selected.name())) {
                continue;
            }
            let (directory, name) = self.place(root, selected.name(), new_owner)?;
            copier.file(file, &selected.stat, directory.as_fd(), &name)?;
        }
        Ok(())
    }

    /// The directory and the name that a file with this name gets.
    fn place(
        &self,
        root: &Rooted,
        name: &std::ffi::OsStr,
        owner: (u32, u32),
    ) -> Result<(OwnedFd, std::ffi::OsString)> {
        let destination = Path::new(&self.destination);
        if self.into_directory || root.directory(destination).is_ok() {
            return Ok((root.make_directory(destination, owner)?, name.to_owned()));
        }
        match (destination.parent(), destination.file_name()) {
            (Some(parent), Some(name)) => {
                Ok((root.make_directory(parent, owner)?, name.to_owned()))
            }
            _ => Err(Error::invalid("a file cannot be copied over the root")),
        }
    }
}

fn write_file(
    directory: &OwnedFd,
    name: &std::ffi::OsStr,
    heredoc: &Heredoc,
    owner: (u32, u32),
    mode: u32,
) -> Result<()> {
    use rustix::fs::{Mode, OFlags};
    use std::io::Write;
    let what = || format!("write '{}'", name.to_string_lossy());
    crate::tree::remove(directory.as_fd(), name)?;
    let file = rustix::fs::openat(
        directory,
        name,
        OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC,
        Mode::from_raw_mode(0o600),
    )
    .context(what)?;
    let mut file = File::from(file);
    file.write_all(heredoc.content.as_bytes()).context(what)?;
    crate::rooted::change_owner(file.as_fd(), "".as_ref(), owner)?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)).context(what)
}

/// A descriptor of its own, at the start of the file.
fn duplicate(fd: &OwnedFd) -> Result<File> {
    let mut file = File::from(rustix::io::fcntl_dupfd_cloexec(fd, 3).context(|| "open a file")?);
    file.rewind().context(|| "read a file")?;
    Ok(file)
}

/// Whether ADD unpacks the file: a tar archive, plain or compressed, known by its first header.
fn is_archive(file: &mut File) -> Result<bool> {
    let mut block = Vec::new();
    let known = match decompress(&*file) {
        Ok(reader) => reader.take(512).read_to_end(&mut block).is_ok(),
        Err(_) => false,
    };
    file.rewind().context(|| "read a file")?;
    if !known || block.len() < 512 {
        return Ok(false);
    }
    let stored = std::str::from_utf8(&block[148..156])
        .ok()
        .and_then(|text| u64::from_str_radix(text.trim_matches(['\0', ' ']), 8).ok());
    let sum: u64 = block
        .iter()
        .enumerate()
        .map(|(at, byte)| {
            if (148..156).contains(&at) {
                u64::from(b' ')
            } else {
                u64::from(*byte)
            }
        })
        .sum();
    Ok(stored == Some(sum))
}

/// Resolves a user in the passwd and group files of an image's root.
pub(super) fn owner(root: &Rooted, user: &str) -> Result<(u32, u32)> {
    let file = |path: &str| -> Result<String> {
        let bytes = root.read(path.as_ref(), LARGEST_USER_FILE)?;
        Ok(String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned())
    };
    let resolved = bulkhead_model::user::resolve(user, &file("etc/passwd")?, &file("etc/group")?)?;
    Ok((resolved.uid, resolved.gid))
}

/// As [`owner`], but without a group its number is the user's, as Docker's `--chown` has it.
fn copy_owner(root: &Rooted, user: &str) -> Result<(u32, u32)> {
    let (uid, gid) = owner(root, user)?;
    Ok((uid, if user.contains(':') { gid } else { uid }))
}
