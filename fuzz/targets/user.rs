//! The user of a process with any passwd and group file: numbers that the kernel takes as a user,
//! or an error. The three texts are divided by NUL bytes.

#![no_main]

use bulkhead_model::user::resolve;
use libfuzzer_sys::fuzz_target;

/// 2^32-1 means "unchanged" to the kernel.
const LARGEST: u32 = i32::MAX as u32;

fuzz_target!(|text: &str| {
    let mut texts = text.splitn(3, '\0');
    let mut next = || texts.next().unwrap_or_default();
    let (user, passwd, group) = (next(), next(), next());
    let Ok(resolved) = resolve(user, passwd, group) else {
        return;
    };
    for id in resolved.groups.iter().chain([&resolved.uid, &resolved.gid]) {
        assert!(*id <= LARGEST, "{id}");
    }
    let (name, group_name) = user.split_once(':').unwrap_or((user, ""));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let named = |file: &str, name: &str| {
        file.lines()
            .any(|line| line.split(':').next() == Some(name))
    };
    // Who is neither in the files nor a number is nobody, and a number is itself.
    if !named(passwd, name) && !name.is_empty() {
        assert!(is_number(name), "{name:?} became {resolved:?}");
        assert_eq!(name.parse(), Ok(resolved.uid), "{resolved:?}");
    }
    if !group_name.is_empty() {
        assert!(resolved.groups.is_empty(), "{resolved:?}");
        if !named(group, group_name) {
            assert!(is_number(group_name), "{group_name:?} became {resolved:?}");
            assert_eq!(group_name.parse(), Ok(resolved.gid), "{resolved:?}");
        }
    }
});
