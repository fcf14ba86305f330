//! `-v [SOURCE:]TARGET[:OPTIONS]`, `--mount type=…,source=…,target=…` and `--tmpfs TARGET[:OPTIONS]`.

use std::collections::HashMap;
use std::path::Path;

use bulkhead_api::docker::{
    Mount, MountBindOptions, MountTmpfsOptions, MountTypeEnum, MountVolumeOptions,
};
use bulkhead_model::ByteSize;

use crate::failure::{Failure, Result};

/// Options of `-v` that Docker takes; those for other systems are passed on and have no effect.
const VOLUME_OPTIONS: [&str; 16] = [
    "ro",
    "rw",
    "z",
    "Z",
    "nocopy",
    "cached",
    "delegated",
    "consistent",
    "private",
    "rprivate",
    "shared",
    "rshared",
    "slave",
    "rslave",
    "volume-nocopy",
    "noexec",
];

/// What `-v` gives.
#[derive(Debug, Default, PartialEq)]
pub struct Volumes {
    /// `source:target[:options]`, the source an absolute path or a volume's name.
    pub binds: Vec<String>,
    /// Targets of volumes without a name.
    pub anonymous: HashMap<String, HashMap<(), ()>>,
}

impl Volumes {
    /// Relative sources (`.`, `./x`, `../x`) start from `directory`.
    ///
    /// # Errors
    /// The first value that is no such volume.
    pub fn parse(values: &[String], directory: &Path) -> Result<Self> {
        let mut volumes = Self::default();
        for value in values {
            volumes.add(value, directory)?;
        }
        Ok(volumes)
    }

    fn add(&mut self, value: &str, directory: &Path) -> Result<()> {
        let wrong = |why: String| {
            Failure::new(format!(
                "-v {value}: {why}; write it as [source:]target[:options]"
            ))
        };
        let parts: Vec<&str> = value.split(':').collect();
        let (source, target, options) = match parts[..] {
            [target] => (None, target, None),
            [source, target] if target.starts_with('/') => (Some(source), target, None),
            [target, options] if !options.is_empty() && target.starts_with('/') => {
                let known = options.split(',').all(|o| VOLUME_OPTIONS.contains(&o));
                if !known {
                    return Err(wrong(format!("the target '{options}' is no absolute path")));
                }
                (None, target, Some(options))
            }
            [source, target] => (Some(source), target, None),
            [source, target, options] => (Some(source), target, Some(options)),
            _ => return Err(wrong("it has too many parts".into())),
        };
        if !target.starts_with('/') {
            return Err(wrong(format!("the target '{target}' is no absolute path")));
        }
        for option in options.into_iter().flat_map(|options| options.split(',')) {
            if !VOLUME_OPTIONS.contains(&option) {
                return Err(wrong(format!("unknown option '{option}'")));
            }
        }
        let Some(source) = source else {
            if options.is_some() {
                return Err(wrong("a volume without a name takes no options".into()));
            }
            self.anonymous.entry(target.to_owned()).or_default();
            return Ok(());
        };
        let source = resolve_source(source, directory).map_err(wrong)?;
        let mut bind = format!("{source}:{target}");
        if let Some(options) = options {
            bind.push(':');
            bind.push_str(options);
        }
        self.binds.push(bind);
        Ok(())
    }
}

fn resolve_source(source: &str, directory: &Path) -> Result<String, String> {
    if source.starts_with('/') {
        return Ok(source.to_owned());
    }
    if source == "." || source == ".." || source.starts_with("./") || source.starts_with("../") {
        return absolute(source, directory);
    }
    if is_volume_name(source) {
        return Ok(source.to_owned());
    }
    Err(match source {
        "" => "the source is empty".into(),
        source => format!(
            "the source '{source}' is neither a volume's name (letters, digits, '_', '.', '-') \
             nor a path that begins with '/' or './'"
        ),
    })
}

fn absolute(source: &str, directory: &Path) -> Result<String, String> {
    let mut path = directory.to_owned();
    for part in source.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                path.pop();
            }
            name => path.push(name),
        }
    }
    match path.into_os_string().into_string() {
        Ok(path) => Ok(path),
        Err(path) => Err(format!("the path {path:?} is not UTF-8")),
    }
}

/// Docker's rule: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
fn is_volume_name(name: &str) -> bool {
    name.len() > 1
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

/// Reads `--mount`.
///
/// # Errors
/// Names the key or value that is wrong or missing.
pub fn parse_mount(value: &str, directory: &Path) -> Result<Mount> {
    let wrong = |why: String| {
        Failure::new(format!(
            "--mount {value}: {why}; write it as type=bind|volume|tmpfs,source=…,target=…"
        ))
    };
    let mut mount = Mount {
        typ: Some(MountTypeEnum::VOLUME),
        ..Mount::default()
    };
    let mut tmpfs = MountTmpfsOptions::default();
    for field in value.split(',') {
        let (key, setting) = match field.split_once('=') {
            Some((key, setting)) => (key, Some(setting)),
            None => (field, None),
        };
        let needed = || setting.ok_or_else(|| wrong(format!("'{key}' needs a value")));
        match key {
            "type" => {
                mount.typ = Some(match needed()? {
                    "bind" => MountTypeEnum::BIND,
                    "volume" => MountTypeEnum::VOLUME,
                    "tmpfs" => MountTypeEnum::TMPFS,
                    other => return Err(wrong(format!("unknown type '{other}'"))),
                });
            }
            "source" | "src" => mount.source = Some(needed()?.to_owned()),
            "target" | "dst" | "destination" => mount.target = Some(needed()?.to_owned()),
            "readonly" | "ro" => {
                mount.read_only = Some(match setting {
                    None | Some("true" | "1") => true,
                    Some("false" | "0") => false,
                    Some(other) => return Err(wrong(format!("'{key}={other}' is no yes or no"))),
                });
            }
            "volume-nocopy" => {
                mount.volume_options = Some(MountVolumeOptions {
                    no_copy: Some(!matches!(setting, Some("false" | "0"))),
                    ..MountVolumeOptions::default()
                });
            }
            "bind-propagation" => {
                let _ = needed()?;
                mount.bind_options = Some(MountBindOptions::default());
            }
            "tmpfs-size" => {
                let text = needed()?;
                let size =
                    ByteSize::parse(text).ok_or_else(|| wrong(format!("'{text}' is no size")))?;
                tmpfs.size_bytes = Some(size.bytes() as i64);
            }
            "tmpfs-mode" => {
                let text = needed()?;
                let mode = i64::from_str_radix(text, 8)
                    .map_err(|_| wrong(format!("'{text}' is no octal mode")))?;
                tmpfs.mode = Some(mode);
            }
            other => return Err(wrong(format!("unknown key '{other}'"))),
        }
    }
    match mount.target.as_deref() {
        None => return Err(wrong("there is no target".into())),
        Some(target) if !target.starts_with('/') => {
            return Err(wrong(format!("the target '{target}' is no absolute path")));
        }
        Some(_) => {}
    }
    match (mount.typ, mount.source.as_deref()) {
        (Some(MountTypeEnum::BIND), None | Some("")) => {
            return Err(wrong("a bind mount needs a source".into()));
        }
        (Some(MountTypeEnum::BIND), Some(source)) => {
            mount.source = Some(match source.starts_with('/') {
                true => source.to_owned(),
                false => absolute(source, directory).map_err(wrong)?,
            });
        }
        (Some(MountTypeEnum::TMPFS), Some(_)) => {
            return Err(wrong("a tmpfs has no source".into()));
        }
        (Some(MountTypeEnum::VOLUME), Some(source)) if !is_volume_name(source) => {
            return Err(wrong(format!("'{source}' is no volume's name")));
        }
        _ => {}
    }
    if tmpfs != MountTmpfsOptions::default() {
        if mount.typ != Some(MountTypeEnum::TMPFS) {
            return Err(wrong("only a tmpfs has a size and a mode".into()));
        }
        mount.tmpfs_options = Some(tmpfs);
    }
    Ok(mount)
}

/// Reads `--tmpfs`: target to options.
///
/// # Errors
/// A target that is no absolute path.
pub fn parse_tmpfs(values: &[String]) -> Result<HashMap<String, String>> {
    let parse = |value: &String| {
        let (target, options) = value.split_once(':').unwrap_or((value, ""));
        if !target.starts_with('/') {
            return Err(Failure::new(format!(
                "--tmpfs {value}: the target '{target}' is no absolute path"
            )));
        }
        Ok((target.to_owned(), options.to_owned()))
    };
    values.iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volumes(value: &str) -> Result<Volumes> {
        Volumes::parse(&[value.to_owned()], Path::new("/home/me"))
    }

    #[test]
    fn every_form_of_a_volume() {
        for (value, bind) in [
            ("/a:/b", "/a:/b"),
            ("/a:/b:ro", "/a:/b:ro"),
            ("data:/b", "data:/b"),
            ("data:/b:ro,nocopy", "data:/b:ro,nocopy"),
            ("./x:/b", "/home/me/x:/b"),
            ("../x:/b", "/home/x:/b"),
            (".:/b", "/home/me:/b"),
        ] {
            assert_eq!(volumes(value).expect(value).binds, [bind], "{value}");
        }
        let anonymous = volumes("/data").expect("anonymous");
        assert!(anonymous.binds.is_empty() && anonymous.anonymous.contains_key("/data"));
    }

    #[test]
    fn a_wrong_volume_is_named() {
        for (value, part) in [
            ("data", "'data' is no absolute path"),
            ("data:b", "'b' is no absolute path"),
            ("/a:b", "'b' is no absolute path"),
            (":/b", "the source is empty"),
            ("a b:/b", "'a b' is neither"),
            ("sub/dir:/b", "'sub/dir' is neither"),
            ("/a:/b:rx", "unknown option 'rx'"),
            ("/a:/b:ro:x", "too many parts"),
        ] {
            let error = volumes(value).expect_err(value);
            assert!(error.message().contains(part), "{value}: {error}");
        }
    }

    #[test]
    fn mounts_by_key_and_value() {
        let directory = Path::new("/home/me");
        let bind = parse_mount("type=bind,src=./x,dst=/b,readonly", directory).expect("bind");
        assert_eq!(bind.source.as_deref(), Some("/home/me/x"));
        assert_eq!(bind.target.as_deref(), Some("/b"));
        assert_eq!(bind.read_only, Some(true));
        let volume = parse_mount("source=data,target=/b", directory).expect("volume");
        assert_eq!(volume.typ, Some(MountTypeEnum::VOLUME));
        let tmpfs = parse_mount(
            "type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1777",
            directory,
        )
        .expect("tmpfs")
        .tmpfs_options
        .expect("options");
        assert_eq!(
            (tmpfs.size_bytes, tmpfs.mode),
            (Some(1 << 20), Some(0o1777))
        );
    }

    #[test]
    fn a_wrong_mount_is_named() {
        for (value, part) in [
            ("type=nfs,target=/b", "unknown type 'nfs'"),
            ("type=bind,target=/b", "needs a source"),
            ("type=bind,source=/a", "there is no target"),
            ("type=bind,source=/a,target=b", "'b' is no absolute path"),
            ("type=tmpfs,source=/a,target=/b", "has no source"),
            (
                "type=volume,source=/a,target=/b",
                "'/a' is no volume's name",
            ),
            ("type=tmpfs,target=/b,tmpfs-size=x", "'x' is no size"),
            ("type=tmpfs,target=/b,tmpfs-mode=9", "'9' is no octal mode"),
            ("type=volume,target=/b,tmpfs-size=1m", "only a tmpfs"),
            ("source", "'source' needs a value"),
            ("target=/b,colour=red", "unknown key 'colour'"),
        ] {
            let error = parse_mount(value, Path::new("/")).expect_err(value);
            assert!(error.message().contains(part), "{value}: {error}");
        }
    }

    #[test]
    fn tmpfs_targets_have_options() {
        let parsed = parse_tmpfs(&["/run:size=64m".into(), "/tmp".into()]).expect("tmpfs");
        assert_eq!(parsed["/run"], "size=64m");
        assert_eq!(parsed["/tmp"], "");
        assert!(parse_tmpfs(&["run".into()]).is_err());
    }
}
