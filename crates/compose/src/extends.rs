//! `extends`: a service that begins as a copy of another, of the same or of another file.
//!
//! Specification: the chapter "extends" of
//! <https://github.com/compose-spec/compose-spec/blob/main/05-services.md>. Relative paths of a
//! service from another file start from that file's directory.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bulkhead_model::spelling::closest;

use crate::context::clean;
use crate::files;
use crate::interpolate::interpolate_tree;
use crate::merge;
use crate::node::{Entry, Node, Value};
use crate::parse::{self, MAXIMUM_NODES};
use crate::schema;
use crate::source::{Sources, Span};

/// How many services may extend each other in a row.
const MAXIMUM_CHAIN: usize = 32;

/// What following an `extends` into another file needs.
pub(crate) struct Extender<'a> {
    pub sources: &'a mut Sources,
    pub environment: &'a BTreeMap<String, String>,
    pub working_directory: &'a Path,
    /// How many bytes variables may still make.
    pub room: &'a mut usize,
    /// The other files that were read; `None` for one that cannot be.
    pub files: HashMap<PathBuf, Option<Rc<Node>>>,
    /// What takes part in a cycle that has been reported.
    pub cycles: HashSet<Step>,
    /// How many nodes were copied: what stops a bomb of services that copy each other.
    pub copied: usize,
}

/// A file and a service of it, on the way along the chain.
pub(crate) type Step = (PathBuf, String);

impl Extender<'_> {
    /// Fills in the variables of a file and checks its keys and types.
    pub fn check(&mut self, tree: &mut Node) {
        interpolate_tree(tree, self.environment, self.room, self.sources);
        schema::check(tree, self.sources);
    }

    /// Replaces every service of `tree` that extends another by what that makes of it. `directory`
    /// is where relative paths in `extends` start from.
    pub fn apply(&mut self, tree: &mut Node, file: &Path, directory: &Path) {
        let extending: Vec<String> = services(tree)
            .iter()
            .filter(|entry| entry.value.get("extends").is_some())
            .map(|entry| entry.key.clone())
            .collect();
        if extending.is_empty() {
            return;
        }
        let original = tree.clone();
        for name in extending {
            let mut way: Vec<Step> = Vec::new();
            let resolved = self.service(&original, file, directory, &name, &mut way);
            if let (Some(resolved), Some(entry)) = (resolved, service_mut(tree, &name)) {
                entry.value = resolved;
            } else if let Some(entry) = service_mut(tree, &name) {
                // The reason has been reported; what is missing because of it has not to be.
                self.sources.silence(entry.key_span);
            }
        }
    }

    fn service(
        &mut self,
        tree: &Node,
        file: &Path,
        directory: &Path,
        name: &str,
        way: &mut Vec<Step>,
    ) -> Option<Node> {
        let own = &services(tree).iter().find(|entry| entry.key == name)?.value;
        let Some(extends) = own.entry("extends") else {
            return self.copy(own, own.span);
        };
        let span = extends.value.span;
        let step = (file.to_owned(), name.to_owned());
        if self.cycles.contains(&step) {
            return None;
        }
        if way.contains(&step) {
            let names: Vec<&str> = way.iter().map(|(_, name)| name.as_str()).collect();
            let begin = way.iter().position(|known| *known == step).unwrap_or(0);
            let cycle = format!("{} → {name}", names[begin..].join(" → "));
            let message = format!("services extend each other in a cycle: {cycle}");
            self.sources.error(span, message);
            self.cycles.extend(way.drain(begin..));
            return None;
        }
        if way.len() >= MAXIMUM_CHAIN {
            let message = format!("more than {MAXIMUM_CHAIN} services extend each other");
            self.sources.error(span, message);
            return None;
        }
        way.push(step);
        let base_node = extends.value.get("service").unwrap_or(&extends.value);
        let base_name = base_node.text()?;
        let base = match extends.value.get("file") {
            Some(other) => {
                let path = clean(&directory.join(other.text()?));
                let tree = self.read(&path, other.span)?;
                let parent = path.parent().unwrap_or(directory).to_owned();
                self.known(&tree, base_name, base_node.span)?;
                let mut base = self.service(&tree, &path, &parent, base_name, way)?;
                make_absolute(&mut base, &parent);
                base
            }
            None => {
                self.known(tree, base_name, base_node.span)?;
                self.service(tree, file, directory, base_name, way)?
            }
        };
        way.pop();
        let mut own = self.copy(own, span)?;
        if let Value::Mapping(entries) = &mut own.value {
            entries.retain(|entry| entry.key != "extends");
        }
        Some(merge::merge_service(base, own))
    }

    /// Reports a service that is not in `tree`.
    fn known(&mut self, tree: &Node, name: &str, span: Span) -> Option<()> {
        let names = || services(tree).iter().map(|entry| entry.key.as_str());
        if names().any(|known| known == name) {
            return Some(());
        }
        let message = format!("the service '{name}' that is extended is not defined");
        match closest(name, names()) {
            Some(known) => {
                let help = format!("did you mean '{known}'?");
                self.sources.error_with_help(span, message, help);
            }
            None => self.sources.error(span, message),
        }
        None
    }

    fn copy(&mut self, node: &Node, span: Span) -> Option<Node> {
        self.copied += node.count();
        if self.copied > MAXIMUM_NODES {
            let message = format!("the extended services have more than {MAXIMUM_NODES} nodes");
            self.sources.error(span, message);
            return None;
        }
        Some(node.clone())
    }

    fn read(&mut self, path: &Path, span: Span) -> Option<Rc<Node>> {
        if let Some(known) = self.files.get(path) {
            return known.clone();
        }
        let display = files::shown(path, self.working_directory);
        let tree = match files::read(path, display, self.sources) {
            Ok(Some(file)) => parse::parse(file, self.sources).map(|mut tree| {
                self.check(&mut tree);
                Rc::new(tree)
            }),
            Ok(None) => None,
            Err(error) => {
                let message = format!("cannot read {}: {error}", path.display());
                let help = match error.kind() {
                    io::ErrorKind::NotFound => "the path starts from this file's directory",
                    _ => "it must be a readable Compose file",
                };
                self.sources.error_with_help(span, message, help);
                None
            }
        };
        self.files.insert(path.to_owned(), tree.clone());
        tree
    }
}

fn services(tree: &Node) -> &[Entry] {
    tree.get("services").map(Node::entries).unwrap_or_default()
}

fn service_mut<'a>(tree: &'a mut Node, name: &str) -> Option<&'a mut Entry> {
    let services = tree.get_mut("services")?;
    let Value::Mapping(entries) = &mut services.value else {
        return None;
    };
    entries.iter_mut().find(|entry| entry.key == name)
}

/// Makes the paths of a service start from `directory`.
fn make_absolute(service: &mut Node, directory: &Path) {
    if let Some(build) = service.get_mut("build") {
        match build.get_mut("context") {
            Some(context) => absolute(context, directory),
            None => absolute(build, directory),
        }
    }
    for item in list_mut(service.get_mut("env_file")) {
        match item.get_mut("path") {
            Some(path) => absolute(path, directory),
            None => absolute(item, directory),
        }
    }
    for item in list_mut(service.get_mut("volumes")) {
        let bind = item.get("type").and_then(Node::text) == Some("bind");
        match item.get_mut("source") {
            Some(source) if bind => absolute(source, directory),
            Some(_) => {}
            None => relative_mount(item, directory),
        }
    }
}

/// The items of a list, or the one value that stands for it.
fn list_mut(node: Option<&mut Node>) -> &mut [Node] {
    let Some(node) = node else {
        return &mut [];
    };
    if !matches!(node.value, Value::Sequence(_)) {
        return std::slice::from_mut(node);
    }
    match &mut node.value {
        Value::Sequence(items) => items,
        _ => &mut [],
    }
}

fn absolute(node: &mut Node, directory: &Path) {
    if let Value::Scalar(scalar) = &mut node.value
        && !scalar.text.starts_with(['/', '~'])
        && !scalar.text.contains("://")
    {
        let path = clean(&directory.join(&scalar.text));
        scalar.text = path.display().to_string();
    }
}

fn relative_mount(node: &mut Node, directory: &Path) {
    if let Value::Scalar(scalar) = &mut node.value
        && scalar.text.starts_with('.')
        && let Some((source, rest)) = scalar.text.split_once(':')
    {
        let path = clean(&directory.join(source));
        scalar.text = format!("{}:{rest}", path.display());
    }
}
