//! From file names to a project, step by step: find, read, interpolate, check, merge, resolve.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use crate::checks;
use crate::context::{Context, clean};
use crate::diagnostic::{Diagnostic, Diagnostics, Severity};
use crate::dotenv::{self, Format};
use crate::extends::Extender;
use crate::files;
use crate::interpolate::{MAXIMUM_TOTAL, interpolate_tree};
use crate::merge;
use crate::node::{Node, Value};
use crate::parse;
use crate::project::{Network, Project};
use crate::service::{self, References};
use crate::source::{Sources, Span};
use crate::toplevel;

/// What to load, and in which surroundings.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// In the order of merging. Empty: `COMPOSE_FILE`, or else what [`crate::discover`] finds.
    pub files: Vec<PathBuf>,
    /// Default: the directory of the first file.
    pub project_directory: Option<PathBuf>,
    /// Default: `COMPOSE_PROJECT_NAME`, then `name:` in the files, then the name of the project
    /// directory.
    pub project_name: Option<String>,
    /// The caller's environment; goes before the variables of `env_files`.
    pub environment: BTreeMap<String, String>,
    /// Default: `.env` in the project directory, if there is one.
    pub env_files: Vec<PathBuf>,
    /// Default: `COMPOSE_PROFILES`. `*` is all.
    pub profiles: Vec<String>,
    /// Where relative `files` start from and where the search begins. Default: the process's own.
    pub working_directory: Option<PathBuf>,
}

/// A project, and what its author should know.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    pub project: Project,
    /// In the order of their positions.
    pub warnings: Vec<Diagnostic>,
}

/// Loads a project.
///
/// # Errors
/// Everything that is wrong with it, in one go, with the warnings, sorted by position.
pub fn load(options: LoadOptions) -> Result<Loaded, Diagnostics> {
    let mut sources = Sources::default();
    let project = match load_into(options, &mut sources) {
        Ok(project) => project,
        Err(Failed) => return Err(Diagnostics(sources.into_diagnostics())),
    };
    if sources.has_errors() {
        return Err(Diagnostics(sources.into_diagnostics()));
    }
    Ok(Loaded {
        project,
        warnings: sources.into_diagnostics(),
    })
}

/// Nothing to go on with; the reason has been reported.
struct Failed;

fn load_into(options: LoadOptions, sources: &mut Sources) -> Result<Project, Failed> {
    let given = options
        .working_directory
        .unwrap_or_else(|| PathBuf::from("."));
    let working_directory = clean(&std::path::absolute(&given).unwrap_or(given));
    let mut environment = options.environment;
    let files = find_files(
        options.files,
        options.project_directory.as_deref(),
        &working_directory,
        &environment,
        sources,
    )?;
    let directory = match &options.project_directory {
        Some(directory) => clean(&working_directory.join(directory)),
        None => match files.first().and_then(|file| file.parent()) {
            Some(parent) => parent.to_owned(),
            None => working_directory.clone(),
        },
    };
    read_env_files(
        &options.env_files,
        &directory,
        &working_directory,
        &mut environment,
        sources,
    );

    let mut trees = Vec::new();
    for path in &files {
        trees.extend(read_tree(path, &working_directory, sources));
    }
    let complete = trees.len() == files.len();
    let name = project_name(
        options.project_name,
        &trees,
        &environment,
        &directory,
        sources,
    );
    environment.insert("COMPOSE_PROJECT_NAME".to_owned(), name.clone());

    let mut extender = Extender {
        sources,
        environment: &environment,
        working_directory: &working_directory,
        room: &mut MAXIMUM_TOTAL.clone(),
        files: HashMap::new(),
        cycles: HashSet::new(),
        copied: 0,
    };
    let mut merged: Option<Node> = None;
    for (mut tree, path) in trees.into_iter().zip(&files) {
        extender.check(&mut tree);
        if complete {
            extender.apply(&mut tree, path, &directory);
        }
        merged = Some(match merged {
            Some(earlier) => merge::merge(earlier, tree),
            None => tree,
        });
    }
    let Some(mut root) = merged.filter(|_| complete) else {
        return Err(Failed);
    };
    merge::strip_resets(&mut root);
    obsolete(&root, sources);

    let mut profiles = options.profiles;
    if profiles.is_empty() {
        let listed = environment.get("COMPOSE_PROFILES").map(String::as_str);
        let names = listed.unwrap_or_default().split(',').map(str::trim);
        profiles.extend(names.filter(|name| !name.is_empty()).map(str::to_owned));
    }
    let mut context = Context {
        sources: std::mem::take(sources),
        environment,
        directory,
        working_directory,
        project_name: name,
        published: Vec::new(),
    };
    let project = resolve(&mut context, &root, files, &profiles);
    *sources = context.sources;
    Ok(project)
}

fn find_files(
    files: Vec<PathBuf>,
    project_directory: Option<&Path>,
    working_directory: &Path,
    environment: &BTreeMap<String, String>,
    sources: &mut Sources,
) -> Result<Vec<PathBuf>, Failed> {
    let absolute = |file: PathBuf| clean(&working_directory.join(file));
    if !files.is_empty() {
        return Ok(files.into_iter().map(absolute).collect());
    }
    let start = match project_directory {
        Some(directory) => clean(&working_directory.join(directory)),
        None => working_directory.to_owned(),
    };
    let mut variables = environment.clone();
    // Its own sources: what is wrong in the file is reported when it is read in earnest.
    let mut aside = Sources::default();
    read_env_files(&[], &start, working_directory, &mut variables, &mut aside);
    if let Some(list) = variables
        .get("COMPOSE_FILE")
        .filter(|list| !list.is_empty())
    {
        let separator = variables
            .get("COMPOSE_PATH_SEPARATOR")
            .filter(|separator| !separator.is_empty());
        let names = list.split(separator.map_or(":", String::as_str));
        let names = names.filter(|name| !name.is_empty());
        return Ok(names.map(|name| absolute(name.into())).collect());
    }
    files::discover(&start).ok_or_else(|| {
        let message = format!(
            "no compose.yaml in {} or a directory above it",
            start.display()
        );
        let diagnostic = Diagnostic::global(Severity::Error, message)
            .with_help("go to the project's directory, or name the file with -f");
        sources.push(diagnostic);
        Failed
    })
}

/// Adds the variables of the files to `environment`, whose own go first.
fn read_env_files(
    given: &[PathBuf],
    directory: &Path,
    working_directory: &Path,
    environment: &mut BTreeMap<String, String>,
    sources: &mut Sources,
) {
    let default = [directory.join(".env")];
    let files = match given {
        [] if default[0].is_file() => default.as_slice(),
        given => given,
    };
    let mut variables = BTreeMap::new();
    for file in files {
        let path = working_directory.join(file);
        let display = files::shown(&path, working_directory);
        match files::read(&path, display.clone(), sources) {
            Ok(Some(index)) => {
                let lookup = |name: &str| {
                    let own = environment.get(name);
                    own.or_else(|| variables.get(name)).cloned()
                };
                let found = dotenv::parse(index, Format::Compose, &lookup, sources);
                variables.extend(found);
            }
            Ok(None) => {}
            Err(error) => sources.push(unreadable(&display, &error)),
        }
    }
    for (name, value) in variables {
        environment.entry(name).or_insert(value);
    }
}

fn unreadable(display: &Path, error: &std::io::Error) -> Diagnostic {
    let message = format!("cannot read {}: {error}", display.display());
    Diagnostic::global(Severity::Error, message)
}

fn read_tree(path: &Path, working_directory: &Path, sources: &mut Sources) -> Option<Node> {
    let display = files::shown(path, working_directory);
    let file = match files::read(path, display.clone(), sources) {
        Ok(file) => file?,
        Err(error) => {
            sources.push(unreadable(&display, &error));
            return None;
        }
    };
    let root = parse::parse(file, sources)?;
    if matches!(root.value, Value::Null) {
        let whole = Span {
            file,
            ..Span::default()
        };
        sources.error_with_help(whole, "the file is empty", "begin with 'services:'");
        return None;
    }
    Some(root)
}

/// The name of the project; one that cannot be used is reported.
fn project_name(
    given: Option<String>,
    trees: &[Node],
    environment: &BTreeMap<String, String>,
    directory: &Path,
    sources: &mut Sources,
) -> String {
    let variable = environment.get("COMPOSE_PROJECT_NAME").cloned();
    let outside = given.or(variable).filter(|name| !name.is_empty());
    if let Some(name) = outside {
        if normalized(&name) != name {
            let message = format!("invalid project name '{name}'");
            sources.push(Diagnostic::global(Severity::Error, message).with_help(NAME_HELP));
        }
        return name;
    }
    let in_file = trees.iter().rev().find_map(|tree| tree.get("name"));
    if let Some(node) = in_file {
        let mut node = node.clone();
        // What is wrong with its variables is reported with those of the whole file.
        let mut aside = Sources::default();
        interpolate_tree(
            &mut node,
            environment,
            &mut MAXIMUM_TOTAL.clone(),
            &mut aside,
        );
        let name = node.text().unwrap_or_default();
        if !name.is_empty() {
            if normalized(name) != name && !aside.has_errors() {
                let message = format!("invalid project name '{name}'");
                sources.error_with_help(node.span, message, NAME_HELP);
            }
            return name.to_owned();
        }
    }
    let base = directory.file_name().unwrap_or_default().to_string_lossy();
    match normalized(&base) {
        name if name.is_empty() => "default".to_owned(),
        name => name,
    }
}

const NAME_HELP: &str =
    "use lower-case letters, digits, '-' and '_'; begin with a letter or a digit";

/// As Compose makes a project name of a directory's name.
pub(crate) fn normalized(name: &str) -> String {
    let kept = name
        .to_lowercase()
        .chars()
        .filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_'))
        .collect::<String>();
    kept.trim_start_matches(['-', '_']).to_owned()
}

/// Keys that say nothing any more, and keys that would change too much if they were ignored.
fn obsolete(root: &Node, sources: &mut Sources) {
    if let Some(entry) = root.entry("version") {
        let message = "'version' is obsolete and is ignored";
        sources.warning_with_help(entry.key_span, message, "remove it");
    }
    if let Some(entry) = root.entry("include") {
        sources.error_with_help(
            entry.key_span,
            "'include' is not supported",
            "pass the files with -f",
        );
    }
}

fn resolve(
    context: &mut Context,
    root: &Node,
    files: Vec<PathBuf>,
    profiles: &[String],
) -> Project {
    let mut project = Project {
        name: context.project_name.clone(),
        directory: context.directory.clone(),
        files,
        services: BTreeMap::new(),
        disabled_services: BTreeMap::new(),
        networks: BTreeMap::new(),
        volumes: BTreeMap::new(),
        configs: BTreeMap::new(),
        secrets: BTreeMap::new(),
    };
    let section = |key: &str| root.get(key).map(Node::entries).unwrap_or_default();
    for entry in section("networks") {
        let network = toplevel::network(context, entry);
        project.networks.insert(entry.key.clone(), network);
    }
    for entry in section("volumes") {
        let volume = toplevel::volume(context, entry);
        project.volumes.insert(entry.key.clone(), volume);
    }
    for (key, noun) in [("configs", "config"), ("secrets", "secret")] {
        for entry in section(key) {
            let Some(object) = toplevel::file_object(context, entry, noun) else {
                continue;
            };
            let into = match noun {
                "config" => &mut project.configs,
                _ => &mut project.secrets,
            };
            into.insert(entry.key.clone(), object);
        }
    }
    let mut references: BTreeMap<String, References> = BTreeMap::new();
    for entry in section("services") {
        let (service, named) = service::service(context, &entry.key, entry.key_span, &entry.value);
        let enabled = service.profiles.is_empty()
            || service
                .profiles
                .iter()
                .any(|own| profiles.iter().any(|active| active == own || active == "*"));
        let into = match enabled {
            true => &mut project.services,
            false => &mut project.disabled_services,
        };
        into.insert(entry.key.clone(), service);
        references.insert(entry.key.clone(), named);
    }
    checks::references(context, &project, &references);
    checks::cycles(context, &project, &references);
    checks::published_ports(context, &project);
    default_network(&mut project);
    project
}

/// Adds the network `default` if a service uses it and the file does not define it.
fn default_network(project: &mut Project) {
    let used = project
        .services
        .values()
        .chain(project.disabled_services.values())
        .flat_map(|service| &service.networks)
        .any(|network| network.network == "default");
    if used && !project.networks.contains_key("default") {
        let network = Network {
            name: format!("{}_default", project.name),
            external: false,
            internal: false,
            driver: Some("bridge".to_owned()),
            subnet: None,
            labels: BTreeMap::new(),
        };
        project.networks.insert("default".to_owned(), network);
    }
}
