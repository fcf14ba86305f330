//! Resolves the `user[:group]` of a process in the texts of a passwd and a group file.

use crate::{Error, Result};

/// Whom a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedUser {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups, from the group file.
    pub groups: Vec<u32>,
    /// From the passwd file, `/` where the user is not in it (`/root` for user 0).
    pub home: String,
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// Resolves `user` as Docker does: `""` is root, a number need not be in the files, a name must.
///
/// # Errors
/// `InvalidInput` with the name that is not in the file, or a number that is out of range.
pub fn resolve(user: &str, passwd: &str, group: &str) -> Result<ResolvedUser> {
    let (user_part, group_part) = match user.split_once(':') {
        Some((user_part, group_part)) => (user_part, Some(group_part)),
        None => (user, None),
    };
    let user_part = if user_part.is_empty() { "0" } else { user_part };
    let entry = passwd
        .lines()
        .filter_map(passwd_entry)
        .find(|entry| entry.name == user_part || number(user_part) == Some(entry.uid));
    let uid = match &entry {
        Some(entry) => entry.uid,
        None => identifier(user_part)?.ok_or_else(|| {
            Error::invalid(format!(
                "no user '{user_part}' in the passwd file of the image"
            ))
        })?,
    };
    let home = match &entry {
        Some(entry) if !entry.home.is_empty() => entry.home.to_owned(),
        _ if uid == 0 => "/root".to_owned(),
        _ => "/".to_owned(),
    };
    let (gid, groups) = match group_part.filter(|part| !part.is_empty()) {
        Some(part) => (group_id(part, group)?, Vec::new()),
        None => {
            let name = entry.as_ref().map(|entry| entry.name);
            (
                entry.as_ref().map_or(0, |entry| entry.gid),
                groups_of(name, group),
            )
        }
    };
    Ok(ResolvedUser {
        uid,
        gid,
        groups,
        home,
    })
}

fn group_id(part: &str, group: &str) -> Result<u32> {
    let found = group
        .lines()
        .filter_map(group_entry)
        .find(|(name, _, _)| *name == part);
    match found {
        Some((_, gid, _)) => Ok(gid),
        None => identifier(part)?.ok_or_else(|| {
            Error::invalid(format!("no group '{part}' in the group file of the image"))
        }),
    }
}

fn groups_of(name: Option<&str>, group: &str) -> Vec<u32> {
    let Some(name) = name else { return Vec::new() };
    group
        .lines()
        .filter_map(group_entry)
        .filter(|(_, _, members)| members.split(',').any(|member| member == name))
        .map(|(_, gid, _)| gid)
        .collect()
}

/// A number that the kernel takes as an identifier; `None` if the text is no number at all.
fn identifier(text: &str) -> Result<Option<u32>> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match number(text) {
        Some(number) => Ok(Some(number)),
        None => Err(Error::invalid(format!(
            "user or group id {text} is out of range 0-2147483647"
        ))),
    }
}

/// The number that these digits are, without the sign that `parse` would take (CVE-2026-30892).
fn number(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    // 2^32-1 means "unchanged" to the kernel, so that a process with a file's number of that sort
    // would stay root; Docker's own limit is 2^31-1.
    let number = digits.then(|| text.parse().ok()).flatten();
    number.filter(|number| *number <= i32::MAX as u32)
}

fn passwd_entry(line: &str) -> Option<PasswdEntry<'_>> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let uid = number(fields.nth(1)?)?;
    let gid = number(fields.next()?)?;
    let home = fields.nth(1).unwrap_or_default();
    Some(PasswdEntry {
        name,
        uid,
        gid,
        home,
    })
}

fn group_entry(line: &str) -> Option<(&str, u32, &str)> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let gid = number(fields.nth(1)?)?;
    Some((name, gid, fields.next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102:web:/srv/web:/bin/false\n";
    const GROUP: &str = "root:x:0:\nweb:x:102:\nssl:x:110:db,web\nweird\n";

    fn resolved(user: &str) -> ResolvedUser {
        resolve(user, PASSWD, GROUP).expect(user)
    }

    #[test]
    fn names_numbers_and_nothing() {
        assert_eq!((resolved("").uid, resolved("").home.as_str()), (0, "/root"));
        let web = ResolvedUser {
            uid: 101,
            gid: 102,
            groups: vec![110],
            home: "/srv/web".into(),
        };
        assert_eq!(resolved("web"), web);
        assert_eq!(resolved("101"), web);
        assert_eq!(
            resolved("5000"),
            ResolvedUser {
                uid: 5000,
                gid: 0,
                groups: vec![],
                home: "/".into()
            }
        );
    }

    #[test]
    fn a_group_replaces_the_users_own() {
        assert_eq!(
            (resolved("web:ssl").gid, resolved("web:ssl").groups),
            (110, vec![])
        );
        assert_eq!(resolved("web:7").gid, 7);
    }

    #[test]
    fn what_cannot_be_resolved_is_named() {
        for (user, part) in [
            ("nobody2", "nobody2"),
            ("web:none", "none"),
            ("4294967295", "4294967295"),
            ("-1", "-1"),
        ] {
            let error = resolve(user, PASSWD, GROUP).expect_err(user);
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn lines_with_numbers_that_mean_something_else_are_nobodys() {
        for (user, passwd) in [
            ("web", "web:x:4294967295:1::/:\n"),
            ("web", "web:x:1:4294967295::/:\n"),
            ("web", "web:x:+0:1::/:\n"),
            ("+0", PASSWD),
        ] {
            let error = resolve(user, passwd, "").expect_err(passwd);
            assert!(error.to_string().contains(user), "{error}");
        }
        let groups = "all:x:4294967295:web\nssl:x:7:web\n";
        assert_eq!(resolve("web", PASSWD, groups).expect("web").groups, [7]);
        assert!(resolve("web:all", PASSWD, groups).is_err());
    }

    #[test]
    fn an_image_without_files_has_root() {
        assert_eq!(resolve("", "", "").expect("root").uid, 0);
    }
}
