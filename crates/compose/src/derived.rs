//! What follows from a project: the order of starting, the hash of a service, the text.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use crate::project::{FileSource, Project, ServiceMount};
use crate::yaml;

impl Project {
    /// The services in the order of starting: those of one level need only those of earlier ones.
    pub fn start_order(&self) -> Vec<Vec<String>> {
        let mut missing: BTreeMap<&str, usize> = BTreeMap::new();
        let mut needed_by: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, service) in &self.services {
            let known = service.depends_on.keys();
            let known = known.filter(|dependency| self.services.contains_key(*dependency));
            let mut count = 0;
            for dependency in known {
                count += 1;
                needed_by.entry(dependency).or_default().push(name);
            }
            missing.insert(name, count);
        }
        let ready = missing.iter().filter(|(_, count)| **count == 0);
        let mut level: Vec<&str> = ready.map(|(name, _)| *name).collect();
        let mut levels = Vec::new();
        while !missing.is_empty() {
            if level.is_empty() {
                // A cycle, which `load` never lets through; a hand-made project ends all the same.
                level = missing.keys().copied().collect();
            }
            for name in &level {
                missing.remove(name);
            }
            let mut next = BTreeSet::new();
            for dependent in level
                .iter()
                .filter_map(|name| needed_by.get(name))
                .flatten()
            {
                if let Some(count) = missing.get_mut(dependent) {
                    *count -= 1;
                    if *count == 0 {
                        next.insert(*dependent);
                    }
                }
            }
            levels.push(level.into_iter().map(str::to_owned).collect());
            level = next.into_iter().collect();
        }
        levels
    }

    /// Switches on a service whose profile is not active, as naming it on the command line does,
    /// with the services that it requires. `false` if there is no such service.
    pub fn enable(&mut self, name: &str) -> bool {
        let mut wanted = vec![name.to_owned()];
        while let Some(name) = wanted.pop() {
            if let Some(service) = self.disabled_services.remove(&name) {
                let required = service.depends_on.iter();
                let required = required.filter(|(_, dependency)| dependency.required);
                wanted.extend(required.map(|(name, _)| name.clone()));
                self.services.insert(name, service);
            }
        }
        self.services.contains_key(name)
    }

    /// SHA-256, in hexadecimal digits, of everything about a service that needs a new sandbox when
    /// it changes: not the replicas, the dependencies, the build or the pull policy. `None` if
    /// there is no such service.
    pub fn config_hash(&self, service: &str) -> Option<String> {
        let service = self
            .services
            .get(service)
            .or_else(|| self.disabled_services.get(service))?;
        let mut text = serde_json::to_value(service).ok()?;
        let keys = text.as_object_mut()?;
        for key in ["depends_on", "build", "pull_policy", "profiles"] {
            keys.remove(key);
        }
        if let Some(deploy) = keys.get_mut("deploy").and_then(Json::as_object_mut) {
            deploy.remove("replicas");
            deploy.remove("labels");
        }
        // What the names in it stand for.
        let networks = service.networks.iter().map(|network| {
            let definition = self.networks.get(&network.network);
            json!([network.network, definition])
        });
        let networks: Vec<Json> = networks.collect();
        let volumes = service.volumes.iter().filter_map(|mount| match mount {
            ServiceMount::Volume { source, .. } => self.volumes.get(source.as_ref()?),
            _ => None,
        });
        let volumes: Vec<&str> = volumes.map(|volume| volume.name.as_str()).collect();
        let configs = service.configs.iter();
        let configs = configs.filter_map(|mount| self.configs.get(&mount.source));
        let secrets = service.secrets.iter();
        let secrets = secrets.filter_map(|mount| self.secrets.get(&mount.source));
        let objects = configs.chain(secrets).map(|file| match &file.source {
            FileSource::Environment(variable) => json!([variable.name, variable.value]),
            other => json!(other),
        });
        let objects: Vec<Json> = objects.collect();
        let whole = json!({
            "service": text,
            "networks": networks,
            "volumes": volumes,
            "objects": objects,
        });
        let digest = Sha256::digest(whole.to_string());
        Some(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The project as a Compose file; `load` makes the same project of it.
    pub fn to_yaml(&self) -> String {
        yaml::document(&self.to_json())
    }

    /// The same as a JSON value, with every `$` doubled as in a Compose file.
    pub fn to_json(&self) -> Json {
        let mut value = serde_json::to_value(self).unwrap_or(Json::Null);
        escape_dollars(&mut value);
        value
    }
}

fn escape_dollars(value: &mut Json) {
    match value {
        Json::String(text) if text.contains('$') => *text = text.replace('$', "$$"),
        Json::Array(items) => items.iter_mut().for_each(escape_dollars),
        Json::Object(entries) => entries.values_mut().for_each(escape_dollars),
        _ => {}
    }
}
