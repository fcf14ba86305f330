//! Builds an image: packs the context while it is sent, and reads the progress.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bulkhead_api::Client;
use bulkhead_api::client::{BodyReceiver, BodySender, BuildOptions, body_channel};
use bulkhead_compose::{Project, Service};

use crate::convert::image_name;
use crate::failure::{Failure, Result};

/// How many of the last lines are shown when a build fails.
const SHOWN_ON_FAILURE: usize = 30;

/// What to build.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// A directory.
    pub context: PathBuf,
    /// As the process sees it; may be outside of `context`.
    pub dockerfile: PathBuf,
    /// The text of a Dockerfile that is in no file, instead of `dockerfile`.
    pub dockerfile_text: Option<String>,
    pub tags: Vec<String>,
    pub arguments: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    pub target: Option<String>,
    pub no_cache: bool,
    pub network: Option<String>,
}

impl Plan {
    /// What `build:` of a service says; `None` if it has none.
    pub fn of_service(project: &Project, service: &Service) -> Option<Self> {
        let build = service.build.as_ref()?;
        let mut tags = vec![image_name(project, service)];
        tags.extend(build.tags.iter().cloned());
        Some(Self {
            context: build.context.clone(),
            dockerfile: match &build.dockerfile {
                Some(dockerfile) => build.context.join(dockerfile),
                None => build.context.join("Dockerfile"),
            },
            dockerfile_text: build.dockerfile_inline.clone(),
            tags,
            arguments: build.args.clone(),
            labels: build.labels.clone(),
            target: build.target.clone(),
            no_cache: build.no_cache,
            network: None,
        })
    }
}

/// Who sees the progress of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// The user, line by line.
    User,
    /// Nobody for longer than a moment: if the build fails, its last lines go with the failure.
    Nobody,
}

/// Builds the image and gives its id. `show` gets each line of the progress.
///
/// # Errors
/// What is wrong with context or Dockerfile; a step that failed.
pub async fn build(
    client: &Client,
    plan: &Plan,
    audience: Audience,
    mut show: impl FnMut(&str),
) -> Result<String> {
    let text_file = match &plan.dockerfile_text {
        Some(text) => Some(TextFile::new(text)?),
        None => None,
    };
    let dockerfile = match &text_file {
        Some(file) => file.path.clone(),
        None => plan.dockerfile.clone(),
    };
    let options = BuildOptions {
        tags: plan.tags.clone(),
        dockerfile: Some(name_in_context(&plan.context, &dockerfile)?),
        build_args: plan.arguments.clone(),
        labels: plan.labels.clone(),
        target: plan.target.clone(),
        no_cache: plan.no_cache,
        quiet: false,
        pull: false,
        network: plan.network.clone(),
    };
    let (sender, receiver) = body_channel();
    let context = plan.context.clone();
    let packing = tokio::task::spawn_blocking(move || pack(&context, &dockerfile, &sender));
    let built = read_progress(client, &options, receiver, audience, &mut show).await;
    // A context that cannot be read breaks the request off; why it cannot is what to say.
    match packing.await {
        Ok(Err(failure)) => Err(failure),
        _ => built,
    }
}

async fn read_progress(
    client: &Client,
    options: &BuildOptions,
    context: BodyReceiver,
    audience: Audience,
    show: &mut impl FnMut(&str),
) -> Result<String> {
    let mut progress = client.build_image(options, context).await?;
    let mut last_lines: VecDeque<String> = VecDeque::new();
    let mut partial = String::new();
    let mut id = None;
    while let Some(line) = progress.next().await? {
        if let Some(message) = line
            .error_detail
            .and_then(|error| error.message)
            .or(line.error)
        {
            let mut text = String::new();
            for line in last_lines {
                text.push_str(&line);
                text.push('\n');
            }
            return Err(match text.is_empty() {
                true => Failure::new(message),
                false => Failure::diagnostics(format!("{text}bulkhead: {message}")),
            });
        }
        if let Some(aux) = line.aux.and_then(|aux| aux.id) {
            id = Some(aux);
        }
        let Some(text) = line.stream.or(line.status) else {
            continue;
        };
        partial.push_str(&text);
        if !text.ends_with('\n') && !text.ends_with('\r') {
            continue;
        }
        for line in std::mem::take(&mut partial).lines() {
            if let Some(built) = line.strip_prefix("Successfully built ") {
                id.get_or_insert_with(|| built.trim().to_owned());
            }
            if !line.trim().is_empty() {
                show(line);
                if audience == Audience::Nobody {
                    last_lines.push_back(line.to_owned());
                }
                if last_lines.len() > SHOWN_ON_FAILURE {
                    last_lines.pop_front();
                }
            }
        }
    }
    id.ok_or_else(|| {
        Failure::new("the daemon ended the build without an image; run the command again")
    })
}

/// The name that [`bulkhead_image::context::context_tar`] gives the Dockerfile.
fn name_in_context(context: &Path, dockerfile: &Path) -> Result<String> {
    let real = |path: &Path, what: &str| {
        path.canonicalize()
            .map_err(|error| Failure::new(format!("{what} {}: {error}", path.display())))
    };
    let context = real(context, "build context")?;
    let dockerfile = real(dockerfile, "Dockerfile")?;
    Ok(match dockerfile.strip_prefix(&context) {
        Ok(inside) => inside.to_string_lossy().into_owned(),
        Err(_) => ".bulkhead.Dockerfile".to_owned(),
    })
}

fn pack(context: &Path, dockerfile: &Path, sender: &BodySender) -> Result<()> {
    let packed = bulkhead_image::context::context_tar(context, dockerfile, Sink(sender));
    match packed {
        Ok(_) => Ok(()),
        // The daemon has stopped to read; it says why.
        Err(_) if sender.is_closed() => Ok(()),
        Err(error) => {
            let _ = sender.blocking_send(Err(io::Error::other("the context cannot be read")));
            Err(error.into())
        }
    }
}

/// Writes into a request's body.
struct Sink<'a>(&'a BodySender);

impl Write for Sink<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self.0.blocking_send(Ok(data.to_vec().into())) {
            Ok(()) => Ok(data.len()),
            Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file that is there as long as it is needed.
struct TextFile {
    path: PathBuf,
}

impl TextFile {
    fn new(text: &str) -> Result<Self> {
        let cannot = |error: io::Error| Failure::new(format!("write the Dockerfile: {error}"));
        let clock = crate::time::Timestamp::now();
        let name = format!(
            "bulkhead-{}-{}.Dockerfile",
            std::process::id(),
            clock.nanoseconds
        );
        let path = std::env::temp_dir().join(name);
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(cannot)?;
        let file_guard = Self { path };
        file.write_all(text.as_bytes()).map_err(cannot)?;
        Ok(file_guard)
    }
}

impl Drop for TextFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
