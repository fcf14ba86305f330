//! Which id mappings a configuration may have (config-linux.md, "User namespace mappings";
//! config.md, "Mounts": `uidMappings`, `gidMappings`, `idmap` and `ridmap`).

use std::path::PathBuf;

use bulkhead_model::{Error, Result};

use super::config::{Config, IdMapping, Mount};
use super::mount_options::MountOptions;
use super::plan::IdMap;

/// Checks the mappings of the container's user namespace, and what an ordinary user may ask for.
///
/// # Errors
/// Names the field.
pub(super) fn check(config: &Config, new: i32, joined: &[(i32, PathBuf)]) -> Result<()> {
    let linux = &config.linux;
    let lists = [
        ("linux.uidMappings", &linux.uid_mappings),
        ("linux.gidMappings", &linux.gid_mappings),
    ];
    let is_new = new & libc::CLONE_NEWUSER != 0;
    let is_joined = joined.iter().any(|(flag, _)| *flag == libc::CLONE_NEWUSER);
    for (field, mappings) in lists {
        if is_new && mappings.is_empty() {
            return Err(Error::invalid(format!(
                "{field}: it is empty, and a new user namespace needs at least one mapping"
            )));
        }
        if is_new && !mappings.iter().any(|mapping| maps(mapping, 0)) {
            return Err(Error::invalid(format!(
                "{field}: the container's id 0 is not mapped, and the set-up runs as it"
            )));
        }
        if !is_new && !is_joined && !mappings.is_empty() {
            return Err(Error::invalid(format!(
                "{field}: it needs a user namespace: add {{\"type\": \"user\"}} to \
                 linux.namespaces"
            )));
        }
        if let Some(index) = mappings.iter().position(|mapping| mapping.size == 0) {
            return Err(Error::invalid(format!("{field}[{index}].size: it is zero")));
        }
    }
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    if !is_new && !is_joined {
        return Err(Error::invalid(
            "linux.namespaces: rootless container requires user namespaces: add {\"type\": \
             \"user\"} with mappings (`spec --rootless` writes such a configuration)",
        ));
    }
    if is_new {
        check_mount_ids(config)?;
    }
    Ok(())
}

/// An ordinary user's filesystems can only belong to who is mapped.
fn check_mount_ids(config: &Config) -> Result<()> {
    for (index, mount) in config.mounts.iter().enumerate() {
        for option in &mount.options {
            let (mappings, id) = match option.split_once('=') {
                Some(("uid", id)) => (&config.linux.uid_mappings, id),
                Some(("gid", id)) => (&config.linux.gid_mappings, id),
                _ => continue,
            };
            // What is no number is the filesystem's to refuse.
            let Ok(id) = id.parse() else { continue };
            if !mappings.iter().any(|mapping| maps(mapping, id)) {
                return Err(Error::invalid(format!(
                    "mounts[{index}].options: cannot specify {option} mount option for rootless \
                     container: the id is not mapped"
                )));
            }
        }
    }
    Ok(())
}

fn maps(mapping: &IdMapping, id: u32) -> bool {
    id.checked_sub(mapping.container_id)
        .is_some_and(|offset| offset < mapping.size)
}

/// How the ids of this mount are to be mapped, if they are.
///
/// # Errors
/// Names the field.
pub(super) fn of_mount(
    mount: &Mount,
    options: &MountOptions,
    field: &str,
    has_user_namespace: bool,
) -> Result<Option<IdMap>> {
    let (users, groups) = (&mount.uid_mappings, &mount.gid_mappings);
    if users.is_empty() != groups.is_empty() {
        return Err(Error::invalid(format!(
            "{field}: id-mapped mounts must have both uid and gid mappings specified"
        )));
    }
    if options.id_map.is_none() && users.is_empty() {
        return Ok(None);
    }
    if !options.bind {
        return Err(Error::invalid(format!(
            "{field}: id-mapped mounts are only supported for bind-mounts"
        )));
    }
    if !rustix::process::geteuid().is_root() {
        return Err(Error::unsupported(format!(
            "{field}: id-mapped mounts are not supported for rootless containers"
        )));
    }
    if users.is_empty() && !has_user_namespace {
        return Err(Error::invalid(format!(
            "{field}: id-mapped mounts must have both uid and gid mappings specified, as the \
             container has no user namespace whose they could be"
        )));
    }
    Ok(Some(IdMap {
        users: users.clone(),
        groups: groups.clone(),
        recursive: options.id_map == Some(true),
    }))
}
