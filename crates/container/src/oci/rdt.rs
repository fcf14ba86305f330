//! Intel RDT: cache and memory bandwidth by groups of the resctrl filesystem (config-linux.md,
//! "IntelRdt"; kernel: `filesystems/resctrl.rst`).
//!
//! Invariant: a group that was there before the container, or that a `closID` names, is another's
//! and stays.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use bulkhead_model::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::config::IntelRdt;

/// A container's group.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Rdt {
    root: PathBuf,
    group: PathBuf,
    /// Where the container's use is counted apart.
    monitoring: Option<PathBuf>,
    own: bool,
}

impl Rdt {
    /// The group that a configuration asks for.
    ///
    /// # Errors
    /// `Unsupported` where resctrl is not mounted.
    pub(super) fn new(config: &IntelRdt, id: &str) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let root = mounts.lines().find_map(|line| {
            let (mount, filesystem) = line.split_once(" - ")?;
            let mount_point = mount.split(' ').nth(4)?;
            filesystem.starts_with("resctrl ").then_some(mount_point)
        });
        let root = root.ok_or_else(|| {
            Error::unsupported(
                "linux.intelRdt: resctrl is not mounted: mount it with 'mount -t resctrl resctrl \
                 /sys/fs/resctrl' where the CPU has it, or leave the field out",
            )
        })?;
        Self::below(root.as_ref(), config, id)
    }

    fn below(root: &Path, config: &IntelRdt, id: &str) -> Result<Self> {
        let name = match config.clos_id.as_str() {
            "" => id,
            name => name,
        };
        if name.contains('/') || matches!(name, "." | ".." | "info" | "mon_groups" | "mon_data") {
            return Err(Error::invalid(format!(
                "linux.intelRdt.closID: '{name}' is no name of a group"
            )));
        }
        let group = root.join(name);
        let own = config.clos_id.is_empty() && !group.exists();
        if schemata(config).is_empty() && !config.clos_id.is_empty() && !group.exists() {
            return Err(Error::invalid(format!(
                "linux.intelRdt.closID: clos dir not accessible (must be pre-created when \
                 schemata, l3CacheSchema and memBwSchema are empty): {}",
                group.display()
            )));
        }
        Ok(Self {
            root: root.to_owned(),
            monitoring: config
                .enable_monitoring
                .then(|| group.join("mon_groups").join(id)),
            group,
            own,
        })
    }

    /// Makes the group with its schemata.
    ///
    /// # Errors
    /// Nothing of it is left then.
    pub(super) fn make(&self, config: &IntelRdt) -> Result<()> {
        let made = [Some(&self.group), self.monitoring.as_ref()]
            .into_iter()
            .flatten()
            .try_for_each(|path| match fs::create_dir(path) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                    Err(self.failed(&format!("make {}", path.display()), error))
                }
                _ => Ok(()),
            });
        made.and_then(|()| self.set(config)).inspect_err(|_| {
            // The first failure is the one to tell about.
            let _ = self.remove();
        })
    }

    /// Writes the schemata: all lines at once, so that they are in force together.
    pub(super) fn set(&self, config: &IntelRdt) -> Result<()> {
        let lines = schemata(config);
        if lines.is_empty() {
            return Ok(());
        }
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        write(&self.group.join("schemata"), &text)
            .map_err(|error| self.failed(&format!("write '{}' to schemata", text.trim()), error))
    }

    pub(super) fn add_process(&self, pid: u32) -> Result<()> {
        for directory in [Some(&self.group), self.monitoring.as_ref()]
            .into_iter()
            .flatten()
        {
            write(&directory.join("tasks"), &pid.to_string())
                .map_err(|error| self.failed(&format!("add process {pid}"), error))?;
        }
        Ok(())
    }

    /// Removes what was made for the container alone.
    pub(super) fn remove(&self) -> Result<()> {
        let path = match (self.own, &self.monitoring) {
            (true, _) => &self.group,
            (false, Some(monitoring)) => monitoring,
            (false, None) => return Ok(()),
        };
        match fs::remove_dir(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(self.failed(&format!("remove {}", path.display()), error))
            }
            _ => Ok(()),
        }
    }

    /// The readings of `events`.
    pub(super) fn read(&self) -> Value {
        let text = |path: PathBuf| {
            fs::read_to_string(path)
                .ok()
                .map(|text| text.trim().to_owned())
        };
        let lines = |directory: &Path| -> Vec<String> {
            let text = text(directory.join("schemata")).unwrap_or_default();
            text.lines().map(|line| line.trim().to_owned()).collect()
        };
        let (own, root) = (lines(&self.group), lines(&self.root));
        let line =
            |lines: &[String], name: &str| lines.iter().find(|line| line.contains(name)).cloned();
        let mut data = json!({"schemata": own});
        let resources: [(&str, &str, &str, &[&str]); 2] = [
            (
                "L3",
                "l3_cache_schema",
                "l3_cache_info",
                &["cbm_mask", "min_cbm_bits", "num_closids"],
            ),
            (
                "MB",
                "mem_bw_schema",
                "mem_bw_info",
                &[
                    "bandwidth_gran",
                    "delay_linear",
                    "min_bandwidth",
                    "num_closids",
                ],
            ),
        ];
        for (name, schema, information, files) in resources {
            let directory = self.root.join("info").join(name);
            if !directory.is_dir() {
                continue;
            }
            for file in files {
                let value = text(directory.join(file)).unwrap_or_default();
                data[information][file] = match value.parse::<u64>() {
                    Ok(number) if *file != "cbm_mask" => number.into(),
                    _ => value.into(),
                };
            }
            data[schema] = line(&own, name).into();
            data[format!("{schema}_root")] = line(&root, name).into();
        }
        let counted = self
            .monitoring
            .as_ref()
            .unwrap_or(&self.group)
            .join("mon_data");
        let mut domains: Vec<PathBuf> = fs::read_dir(counted)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect();
        domains.sort();
        let number = |path: PathBuf| text(path)?.parse::<u64>().ok();
        let (mut bandwidth, mut cache) = (Vec::new(), Vec::new());
        for domain in domains {
            let total = number(domain.join("mbm_total_bytes"));
            let local = number(domain.join("mbm_local_bytes"));
            if total.is_some() || local.is_some() {
                bandwidth.push(json!({"mbm_total_bytes": total, "mbm_local_bytes": local}));
            }
            let occupied = number(domain.join("llc_occupancy"));
            cache.extend(occupied.map(|bytes| json!({"llc_occupancy": bytes})));
        }
        for (name, list) in [("mbm_stats", bandwidth), ("cmt_stats", cache)] {
            if !list.is_empty() {
                data[name] = list.into();
            }
        }
        data
    }

    /// The kernel says in a file of its own what it did not like.
    fn failed(&self, doing: &str, error: io::Error) -> Error {
        let status = fs::read_to_string(self.root.join("info/last_cmd_status"));
        let status = status.unwrap_or_default();
        Error::host(format!(
            "linux.intelRdt: {doing}, last_cmd_status: {}",
            status.trim()
        ))
        .with_source(error)
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write;
    let mut file = fs::OpenOptions::new().write(true).open(path)?;
    file.write_all(text.as_bytes())
}

/// The lines of the schemata in the order in which runc writes them.
fn schemata(config: &IntelRdt) -> Vec<&str> {
    let single = [&config.l3_cache_schema, &config.mem_bw_schema];
    let all = single.into_iter().chain(&config.schemata);
    all.map(String::as_str)
        .filter(|line| !line.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that stands for resctrl.
    fn resctrl() -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("directory");
        for (path, text) in [
            ("info/L3/cbm_mask", "7ff\n"),
            ("info/L3/min_cbm_bits", "1\n"),
            ("info/L3/num_closids", "16\n"),
            ("info/last_cmd_status", "ok\n"),
            ("schemata", "L3:0=7ff\n"),
            ("shared/tasks", ""),
            ("shared/schemata", "L3:0=f\n"),
            ("shared/mon_groups/.keep", ""),
            ("shared/mon_data/mon_L3_00/llc_occupancy", "123\n"),
        ] {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().expect("parent")).expect("directory");
            fs::write(path, text).expect("file");
        }
        directory
    }

    fn config(text: Value) -> IntelRdt {
        serde_json::from_value(text).expect("configuration")
    }

    #[test]
    fn a_group_of_the_containers_own_is_made_and_removed() {
        let resctrl = resctrl();
        let rdt = Rdt::below(resctrl.path(), &config(json!({})), "one").expect("group");
        rdt.make(&config(json!({}))).expect("make");
        assert!(resctrl.path().join("one").is_dir());
        rdt.remove().expect("remove");
        rdt.remove().expect("remove again");
        assert!(!resctrl.path().join("one").exists());
        // What the kernel would have in a new directory is not in this one.
        let schema = config(json!({"l3CacheSchema": "L3:0=f"}));
        let error = rdt.make(&schema).expect_err("no schemata").to_string();
        assert!(error.contains("last_cmd_status: ok"), "{error}");
        assert!(!resctrl.path().join("one").exists(), "the group is left");
    }

    #[test]
    fn a_named_group_gets_the_schemata_and_stays() {
        let resctrl = resctrl();
        let wanted = config(json!({
            "closID": "shared", "l3CacheSchema": "L3:0=3", "memBwSchema": "MB:0=20",
            "schemata": ["L2:0=1"], "enableMonitoring": true,
        }));
        let rdt = Rdt::below(resctrl.path(), &wanted, "two").expect("group");
        rdt.make(&wanted).expect("make");
        let read = |path: &str| fs::read_to_string(resctrl.path().join(path)).expect("read");
        assert_eq!(read("shared/schemata"), "L3:0=3\nMB:0=20\nL2:0=1\n");
        let monitoring = resctrl.path().join("shared/mon_groups/two");
        fs::write(monitoring.join("tasks"), "").expect("tasks");
        rdt.add_process(7).expect("add");
        assert_eq!(
            (read("shared/tasks"), read("shared/mon_groups/two/tasks")),
            ("7".into(), "7".into())
        );
        fs::remove_file(monitoring.join("tasks")).expect("tasks");
        rdt.remove().expect("remove");
        assert!(resctrl.path().join("shared").exists() && !monitoring.exists());
    }

    #[test]
    fn readings_have_runcs_names() {
        let resctrl = resctrl();
        let wanted = config(json!({"closID": "shared"}));
        let rdt = Rdt::below(resctrl.path(), &wanted, "three").expect("group");
        assert_eq!(
            rdt.read(),
            json!({
                "schemata": ["L3:0=f"],
                "l3_cache_info": {"cbm_mask": "7ff", "min_cbm_bits": 1, "num_closids": 16},
                "l3_cache_schema": "L3:0=f",
                "l3_cache_schema_root": "L3:0=7ff",
                "cmt_stats": [{"llc_occupancy": 123}],
            })
        );
    }

    #[test]
    fn a_group_that_has_to_be_there_or_is_none_is_refused_by_name() {
        let resctrl = resctrl();
        for name in ["nobody", "../x", "info"] {
            let wanted = config(json!({"closID": name}));
            let error = Rdt::below(resctrl.path(), &wanted, "id")
                .expect_err(name)
                .to_string();
            assert!(error.contains("linux.intelRdt.closID"), "{error}");
        }
    }
}
