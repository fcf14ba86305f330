//! A project in a directory of its own.

#![allow(dead_code, reason = "each test program uses its own part")]

use std::path::{Path, PathBuf};

use bulkhead_compose::{Diagnostics, LoadOptions, Loaded, load};
use tempfile::TempDir;

pub struct Directory(TempDir);

impl Directory {
    pub fn new() -> Self {
        let directory = tempfile::Builder::new()
            .prefix("bulkhead-compose-")
            .tempdir();
        Self(directory.expect("a temporary directory"))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn with(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("make a directory");
        std::fs::write(path, content).expect("write a file");
        self
    }

    /// Options with nothing set but the place.
    pub fn options(&self) -> LoadOptions {
        LoadOptions {
            working_directory: Some(self.path().to_owned()),
            ..LoadOptions::default()
        }
    }

    pub fn load(&self) -> Result<Loaded, Diagnostics> {
        load(self.options())
    }

    /// Loads these files, in this order, with these variables.
    pub fn load_files(
        &self,
        files: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<Loaded, Diagnostics> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        load(LoadOptions {
            files: files.iter().map(PathBuf::from).collect(),
            environment: variables.iter().map(owned).collect(),
            ..self.options()
        })
    }
}

/// Loads one file that must be right.
pub fn good(text: &str) -> Loaded {
    let directory = Directory::new().with("compose.yaml", text);
    directory
        .load_files(&["compose.yaml"], &[])
        .unwrap_or_else(|errors| panic!("{errors}"))
}

/// What is reported about one file, errors and warnings; the directory's name is `DIR`.
pub fn report(text: impl AsRef<[u8]>) -> String {
    let directory = Directory::new().with("compose.yaml", text);
    let text = match directory.load_files(&["compose.yaml"], &[]) {
        Ok(loaded) => {
            let shown: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
            shown.join("\n\n")
        }
        Err(errors) => errors.to_string(),
    };
    text.replace(&directory.path().display().to_string(), "DIR")
}
