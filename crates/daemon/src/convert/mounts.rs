//! Volumes, bind mounts and tmpfs of a create request.

use std::collections::HashMap;
use std::path::PathBuf;

use bulkhead_api::docker::{ContainerCreateBody, HostConfig, Mount, MountTypeEnum};
use bulkhead_engine::{MountRequest, MountRequestSource};
use bulkhead_model::{ByteSize, Error, Result};

/// All mounts, an image's anonymous volumes last and only where nothing else is.
pub(super) fn mounts<'a>(
    body: &'a ContainerCreateBody,
    host: &HostConfig,
    image_volumes: impl Iterator<Item = &'a String>,
) -> Result<Vec<MountRequest>> {
    let mut mounts: Vec<MountRequest> = Vec::new();
    for bind in host.binds.iter().flatten() {
        add(&mut mounts, parse_bind(bind)?)?;
    }
    for mount in host.mounts.iter().flatten() {
        add(&mut mounts, parse_mount(mount)?)?;
    }
    for (target, options) in host.tmpfs.iter().flatten() {
        let (size, mode, read_only) = parse_tmpfs(target, options)?;
        let source = MountRequestSource::Tmpfs { size, mode };
        add(
            &mut mounts,
            MountRequest {
                target: absolute(target)?,
                source,
                read_only,
            },
        )?;
    }
    let of_request = body.volumes.iter().flat_map(HashMap::keys);
    for target in of_request.chain(image_volumes) {
        let target = absolute(target)?;
        if !mounts.iter().any(|mount| mount.target == target) {
            let source = MountRequestSource::AnonymousVolume;
            mounts.push(MountRequest {
                target,
                source,
                read_only: false,
            });
        }
    }
    Ok(mounts)
}

fn add(mounts: &mut Vec<MountRequest>, mount: MountRequest) -> Result<()> {
    if mounts.iter().any(|other| other.target == mount.target) {
        return Err(Error::invalid(format!(
            "Duplicate mount point: {}",
            mount.target
        )));
    }
    mounts.push(mount);
    Ok(())
}

/// `SOURCE:TARGET[:OPTIONS]`: a source that begins with `/` is a path, any other a volume's name.
fn parse_bind(bind: &str) -> Result<MountRequest> {
    let wrong = |why: &str| Error::invalid(format!("invalid volume specification '{bind}': {why}"));
    let parts: Vec<&str> = bind.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [target] => {
            let source = MountRequestSource::AnonymousVolume;
            return Ok(MountRequest {
                target: absolute(target)?,
                source,
                read_only: false,
            });
        }
        [source, target] => (*source, *target, ""),
        [source, target, options] => (*source, *target, *options),
        _ => return Err(wrong("use SOURCE:TARGET or SOURCE:TARGET:OPTIONS")),
    };
    let mut read_only = false;
    let mut copy_up = true;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => read_only = true,
            "nocopy" => copy_up = false,
            // SELinux relabelling means nothing where there is no SELinux, as in Docker.
            "rw" | "z" | "Z" | "rprivate" | "private" | "cached" | "delegated" | "consistent" => {}
            "rshared" | "shared" | "rslave" | "slave" => {
                return Err(Error::unsupported(format!(
                    "volume '{bind}': mount propagation '{option}' is not supported"
                )));
            }
            other => return Err(wrong(&format!("unknown option '{other}'"))),
        }
    }
    let source = match source {
        "" => return Err(wrong("the source is empty")),
        path if path.starts_with('/') => MountRequestSource::Bind {
            path: PathBuf::from(path),
            create: true,
        },
        name if name.starts_with('.') || name.contains('/') => {
            return Err(wrong("a path must be absolute, a volume's name has no '/'"));
        }
        name => MountRequestSource::Volume {
            name: name.to_owned(),
            copy_up,
        },
    };
    Ok(MountRequest {
        target: absolute(target)?,
        source,
        read_only,
    })
}

fn parse_mount(mount: &Mount) -> Result<MountRequest> {
    let target = absolute(mount.target.as_deref().unwrap_or_default())?;
    let given = mount.source.clone().unwrap_or_default();
    let source = match mount.typ {
        Some(MountTypeEnum::BIND) => {
            if !given.starts_with('/') {
                return Err(Error::invalid(format!(
                    "invalid mount config for type \"bind\": source '{given}' must be an absolute path"
                )));
            }
            let create = mount
                .bind_options
                .as_ref()
                .and_then(|o| o.create_mountpoint)
                .unwrap_or(false);
            MountRequestSource::Bind {
                path: given.into(),
                create,
            }
        }
        Some(MountTypeEnum::VOLUME) | None if given.is_empty() => {
            MountRequestSource::AnonymousVolume
        }
        Some(MountTypeEnum::VOLUME) | None => {
            let no_copy = mount
                .volume_options
                .as_ref()
                .and_then(|o| o.no_copy)
                .unwrap_or(false);
            MountRequestSource::Volume {
                name: given,
                copy_up: !no_copy,
            }
        }
        Some(MountTypeEnum::TMPFS) => {
            let options = mount.tmpfs_options.as_ref();
            let size = options.and_then(|o| o.size_bytes).filter(|size| *size > 0);
            MountRequestSource::Tmpfs {
                size: size.and_then(|size| u64::try_from(size).ok()).map(ByteSize),
                mode: options
                    .and_then(|o| o.mode)
                    .and_then(|mode| u32::try_from(mode).ok()),
            }
        }
        Some(other) => {
            return Err(Error::unsupported(format!(
                "mount type '{other:?}' is not supported: use bind, volume or tmpfs"
            )));
        }
    };
    Ok(MountRequest {
        target,
        source,
        read_only: mount.read_only.unwrap_or(false),
    })
}

/// Reads mount options of a tmpfs: `size=64m,mode=1777,ro`.
fn parse_tmpfs(target: &str, options: &str) -> Result<(Option<ByteSize>, Option<u32>, bool)> {
    let (mut size, mut mode, mut read_only) = (None, None, false);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let wrong = || Error::invalid(format!("tmpfs {target}: invalid option '{option}'"));
        match option.split_once('=') {
            Some(("size", value)) => size = Some(ByteSize::parse(value).ok_or_else(wrong)?),
            Some(("mode", value)) => {
                mode = Some(u32::from_str_radix(value, 8).map_err(|_| wrong())?)
            }
            None if option == "ro" => read_only = true,
            // What every tmpfs of ours is anyway.
            None if ["rw", "nosuid", "nodev", "noexec"].contains(&option) => {}
            _ => return Err(wrong()),
        }
    }
    Ok((size, mode, read_only))
}

fn absolute(target: &str) -> Result<String> {
    if !target.starts_with('/') {
        return Err(Error::invalid(format!(
            "invalid mount path: '{target}': mount path must be absolute"
        )));
    }
    let clean: Vec<&str> = target
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    if clean.is_empty() || clean.contains(&"..") {
        return Err(Error::invalid(format!(
            "invalid mount path: '{target}': it must not be '/' nor contain '..'"
        )));
    }
    Ok(format!("/{}", clean.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds_are_paths_or_names() {
        let bind = parse_bind("/srv/data:/data:ro").expect("bind");
        assert!(bind.read_only && bind.target == "/data");
        assert!(matches!(
            bind.source,
            MountRequestSource::Bind { create: true, .. }
        ));
        let volume = parse_bind("pgdata:/var/lib/pg//data/").expect("volume");
        assert_eq!(volume.target, "/var/lib/pg/data");
        assert!(matches!(
            volume.source,
            MountRequestSource::Volume { copy_up: true, .. }
        ));
        for wrong in [
            "./a:/b",
            "a:b",
            ":/b",
            "a:/b:what",
            "a:/",
            "a:/x/../y",
            "a:/b:ro:c",
        ] {
            let error = parse_bind(wrong).expect_err(wrong);
            assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn tmpfs_options() {
        let (size, mode, read_only) =
            parse_tmpfs("/t", "size=64m,mode=1777,noexec").expect("options");
        assert_eq!(
            (size, mode, read_only),
            (Some(ByteSize::from_mib(64)), Some(0o1777), false)
        );
        assert!(parse_tmpfs("/t", "size=lots").is_err());
        assert!(parse_tmpfs("/t", "uid=1").is_err());
    }
}
