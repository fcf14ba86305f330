use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use bulkhead_compose::Project;
use clap::Args;

use crate::build::{self, Audience, Plan};
use crate::failure::{Failure, Result};
use crate::output;
use crate::project;
use crate::session::Session;

#[derive(Debug, Args)]
pub struct Build {
    /// Name for the image, NAME[:TAG]
    #[arg(short, long = "tag", value_name = "NAME")]
    tags: Vec<String>,
    /// Dockerfile; PATH/Dockerfile if not given, - for stdin
    #[arg(short = 'f', long = "file", id = "dockerfile", value_name = "FILE")]
    dockerfile: Option<PathBuf>,
    /// Value of an ARG
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]")]
    arguments: Vec<String>,
    /// Label of the image
    #[arg(long = "label", value_name = "NAME=VALUE")]
    labels: Vec<String>,
    /// Stage to build
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Run every step anew
    #[arg(long)]
    no_cache: bool,
    /// Network of the steps: default, none or host
    #[arg(long, value_name = "NETWORK")]
    network: Option<String>,
    /// auto, plain or quiet
    #[arg(long, default_value = "auto", value_name = "HOW")]
    progress: String,
    /// Write the image's id to a file
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,
    /// Print the image's id only
    #[arg(short, long)]
    quiet: bool,
    /// A directory with a Dockerfile; or services of the project, all with a build if none is named
    #[arg(value_name = "PATH | SERVICE")]
    operands: Vec<String>,
}

pub async fn run(session: &Session, arguments: Build) -> Result<u8> {
    if let Some(context) = context_of(&arguments)? {
        return one_image(session, &arguments, &context).await;
    }
    match (session.project()?, arguments.operands.as_slice()) {
        (Some(project), _) => services(session, &arguments, project).await,
        (None, [path]) if Path::new(path).is_dir() => one_image(session, &arguments, path).await,
        (None, _) => Err(Failure::new(
            "nothing to build: give the PATH of a build context, or run the command where a \
             Compose file is",
        )),
    }
}

/// The directory, if the command line is Docker's and not Compose's.
fn context_of(arguments: &Build) -> Result<Option<String>> {
    let as_docker =
        !arguments.tags.is_empty() || arguments.dockerfile.is_some() || arguments.iidfile.is_some();
    match arguments.operands.as_slice() {
        [path] if as_docker || path == "." || path == "-" || path.contains('/') => {
            Ok(Some(path.clone()))
        }
        [] if as_docker => Err(Failure::new(
            "-t and -f need the PATH of a build context, such as: bulkhead build -t NAME .",
        )),
        [_, _, ..] if as_docker => Err(Failure::new("give one PATH")),
        _ => Ok(None),
    }
}

async fn one_image(session: &Session, arguments: &Build, context: &str) -> Result<u8> {
    let empty = EmptyDirectory::for_stdin(context)?;
    let context = match &empty {
        Some(directory) => directory.0.clone(),
        None => PathBuf::from(context),
    };
    let from_stdin = arguments.dockerfile.as_deref() == Some(Path::new("-")) || empty.is_some();
    let plan = Plan {
        dockerfile: match &arguments.dockerfile {
            Some(file) => file.clone(),
            None => context.join("Dockerfile"),
        },
        dockerfile_text: match from_stdin {
            true => Some(read_stdin()?),
            false => None,
        },
        context,
        tags: arguments.tags.clone(),
        arguments: build_arguments(&arguments.arguments)?,
        labels: pairs("--label", &arguments.labels)?,
        target: arguments.target.clone(),
        no_cache: arguments.no_cache,
        network: arguments.network.clone(),
    };
    let quiet = arguments.quiet || arguments.progress == "quiet";
    let client = session.client().await?;
    let audience = if quiet {
        Audience::Nobody
    } else {
        Audience::User
    };
    let id = build::build(client, &plan, audience, |line| {
        if !quiet {
            output::note(line);
        }
    })
    .await?;
    if let Some(file) = &arguments.iidfile {
        std::fs::write(file, &id)
            .map_err(|error| Failure::new(format!("--iidfile {}: {error}", file.display())))?;
    }
    if quiet || plan.tags.is_empty() {
        output::line(&id)?;
    }
    Ok(0)
}

async fn services(session: &Session, arguments: &Build, mut loaded: Project) -> Result<u8> {
    project::enable(&mut loaded, &arguments.operands)?;
    let client = session.client().await?;
    let given = build_arguments(&arguments.arguments)?;
    let audience = match arguments.quiet {
        true => Audience::Nobody,
        false => Audience::User,
    };
    let mut built = 0;
    for service in loaded.services.values() {
        if !arguments.operands.is_empty() && !arguments.operands.contains(&service.name) {
            continue;
        }
        let Some(mut plan) = Plan::of_service(&loaded, service) else {
            continue;
        };
        plan.no_cache |= arguments.no_cache;
        plan.arguments.extend(given.clone());
        if arguments.target.is_some() {
            plan.target = arguments.target.clone();
        }
        let id = build::build(client, &plan, audience, |line| {
            if !arguments.quiet {
                output::note(format!("{}: {line}", service.name));
            }
        })
        .await?;
        if arguments.quiet {
            output::line(id)?;
        }
        built += 1;
    }
    if built == 0 {
        output::note("bulkhead: no service to build: none has 'build:'");
    }
    Ok(0)
}

/// A name without a value takes that of our environment.
fn build_arguments(flags: &[String]) -> Result<BTreeMap<String, String>> {
    let mut arguments = BTreeMap::new();
    for flag in flags {
        match flag.split_once('=') {
            Some(("", _)) => {
                return Err(Failure::new(format!("--build-arg {flag}: no name")));
            }
            Some((name, value)) => {
                arguments.insert(name.to_owned(), value.to_owned());
            }
            None => {
                if let Ok(value) = std::env::var(flag) {
                    arguments.insert(flag.clone(), value);
                }
            }
        }
    }
    Ok(arguments)
}

fn pairs(flag: &str, values: &[String]) -> Result<BTreeMap<String, String>> {
    let parse = |value: &String| match value.split_once('=') {
        Some((name, text)) if !name.is_empty() => Ok((name.to_owned(), text.to_owned())),
        _ => Err(Failure::new(format!(
            "{flag} {value}: write it as NAME=VALUE"
        ))),
    };
    values.iter().map(parse).collect()
}

fn read_stdin() -> Result<String> {
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(|error| Failure::new(format!("read the Dockerfile from stdin: {error}")))?;
    Ok(text)
}

/// The context of `build -`, whose only file comes from stdin.
struct EmptyDirectory(PathBuf);

impl EmptyDirectory {
    fn for_stdin(context: &str) -> Result<Option<Self>> {
        if context != "-" {
            return Ok(None);
        }
        let name = format!("bulkhead-{}-context", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path)
            .map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
        Ok(Some(Self(path)))
    }
}

impl Drop for EmptyDirectory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::{Arguments, Verb};
    use clap::Parser;

    fn context(line: &[&str]) -> Result<Option<String>> {
        let words = ["bulkhead", "build"].iter().chain(line);
        match Arguments::try_parse_from(words).expect("command line").verb {
            Verb::Build(build) => context_of(&build),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_path_is_dockers_form_and_names_are_composes() {
        for (line, expected) in [
            (&["."][..], Some(".")),
            (&["-t", "a", "dir"], Some("dir")),
            (&["./dir"], Some("./dir")),
            (&["-f", "-", "-"], Some("-")),
            (&[], None),
            (&["web"], None),
            (&["web", "db", "--no-cache"], None),
        ] {
            assert_eq!(
                context(line).expect("context").as_deref(),
                expected,
                "{line:?}"
            );
        }
        assert!(context(&["-t", "a"]).is_err());
        assert!(context(&["-t", "a", "b", "c"]).is_err());
    }
}
