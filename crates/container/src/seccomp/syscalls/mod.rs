//! System calls by name, for each of the three tables of an x86-64 kernel.
//!
//! Invariant: the tables are sorted by name, because [`number`] searches by halving.

mod i386;
mod x32;
mod x86_64;

use super::rule::Architecture;

/// The number of a system call; `None` if this architecture has no call of that name.
pub(super) fn number(architecture: Architecture, name: &str) -> Option<u32> {
    match architecture {
        Architecture::X86_64 => find(x86_64::TABLE, name),
        Architecture::X86 => find(i386::TABLE, name),
        Architecture::X32 => x32::number(name),
    }
}

/// The call of i386 that carries this one out by a number in its first argument, with that
/// number: `socketcall(2)` and `ipc(2)`. Most have a call of their own too.
pub(super) fn multiplexed(architecture: Architecture, name: &str) -> Option<(u32, u32)> {
    if architecture != Architecture::X86 {
        return None;
    }
    let index = i386::MULTIPLEXED
        .binary_search_by(|(entry, _, _)| entry.cmp(&name))
        .ok()?;
    let (_, call, selector) = i386::MULTIPLEXED[index];
    Some((call, selector))
}

fn find(table: &[(&str, u32)], name: &str) -> Option<u32> {
    let index = table.binary_search_by(|(entry, _)| entry.cmp(&name)).ok()?;
    Some(table[index].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_sorted_and_agree_with_libc() {
        for table in [x86_64::TABLE, i386::TABLE, x32::OWN] {
            assert!(table.is_sorted_by(|left, right| left.0 < right.0));
        }
        assert!(i386::MULTIPLEXED.is_sorted_by(|left, right| left.0 < right.0));
        assert!(x32::ABSENT.is_sorted());
        let native = |name| number(Architecture::X86_64, name);
        assert_eq!(native("read"), Some(libc::SYS_read as u32));
        assert_eq!(native("clone3"), Some(libc::SYS_clone3 as u32));
        assert_eq!(native("openat2"), Some(libc::SYS_openat2 as u32));
        assert_eq!(native("socketcall"), None);
    }

    #[test]
    fn each_architecture_has_numbers_of_its_own() {
        use Architecture::{X32, X86};
        assert_eq!(number(X86, "read"), Some(3));
        assert_eq!(number(X86, "socketcall"), Some(102));
        assert_eq!(number(X86, "socket"), Some(359));
        assert_eq!(number(X86, "openat2"), Some(437));
        assert_eq!(multiplexed(X86, "socket"), Some((102, 1)));
        assert_eq!(multiplexed(X86, "shmctl"), Some((117, 24)));
        assert_eq!(multiplexed(X32, "socket"), None);
        assert_eq!(number(X32, "read"), Some(0x4000_0000));
        assert_eq!(number(X32, "execve"), Some(0x4000_0000 + 520));
        assert_eq!(number(X32, "uselib"), None);
    }
}
