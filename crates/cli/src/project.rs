//! Finds and loads the project that the program is run in.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bulkhead_compose::{LoadOptions, Project};

use crate::arguments::Globals;
use crate::failure::{Failure, Result};
use crate::output;

/// Loads the project of the Compose files that are named or found; its warnings are printed.
/// `None` if none is named and none is found.
///
/// # Errors
/// All diagnostics of the files, several lines each.
pub fn load(globals: &Globals) -> Result<Option<Project>> {
    if !names_a_file(globals) {
        let directory = match &globals.project_directory {
            Some(directory) => directory.clone(),
            None => std::env::current_dir()
                .map_err(|error| Failure::new(format!("the working directory: {error}")))?,
        };
        if bulkhead_compose::discover(&directory).is_none() {
            return Ok(None);
        }
    }
    let loaded = bulkhead_compose::load(LoadOptions {
        files: globals.files.clone(),
        project_directory: globals.project_directory.clone(),
        project_name: globals.project_name.clone(),
        environment: environment(),
        env_files: globals.env_files.clone(),
        profiles: globals.profiles.clone(),
        working_directory: None,
    })
    .map_err(|diagnostics| Failure::diagnostics(diagnostics.to_string()))?;
    for warning in &loaded.warnings {
        output::note(warning.to_string());
    }
    Ok(Some(loaded.project))
}

fn names_a_file(globals: &Globals) -> bool {
    let variable = std::env::var_os("COMPOSE_FILE");
    !globals.files.is_empty() || variable.is_some_and(|files| !files.is_empty())
}

/// Variables that are not UTF-8 cannot be written into a Compose file's text, and are left out.
fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// Switches on the services that are named, and gives an error for one that does not exist.
pub fn enable(project: &mut Project, services: &[String]) -> Result<()> {
    for name in services {
        if !project.enable(name) {
            let known: Vec<&str> = project.services.keys().map(String::as_str).collect();
            return Err(Failure::new(format!(
                "no service '{name}' in project '{}'; it has: {}",
                project.name,
                known.join(", ")
            )));
        }
    }
    Ok(())
}

/// The services and, unless `alone`, all that they depend on; with no names, all.
pub fn with_dependencies(project: &Project, services: &[String], alone: bool) -> Vec<String> {
    if services.is_empty() {
        return project.services.keys().cloned().collect();
    }
    let mut wanted: Vec<String> = services.to_vec();
    let mut next = 0;
    while !alone && next < wanted.len() {
        if let Some(service) = project.services.get(&wanted[next]) {
            for dependency in service.depends_on.keys() {
                if project.services.contains_key(dependency) && !wanted.contains(dependency) {
                    wanted.push(dependency.clone());
                }
            }
        }
        next += 1;
    }
    wanted
}

/// The files as labels and lists name them.
pub fn file_names(files: &[PathBuf]) -> Vec<String> {
    files
        .iter()
        .map(|file| file.to_string_lossy().into_owned())
        .collect()
}
