//! What a user reads about a file that is wrong: the exact text.

mod common;

use common::{Directory, report};

/// The text after `services:\n  web:\n    image: i\n`, and what is reported about it.
#[track_caller]
fn web(rest: &str, expected: &str) {
    let report = report(format!("services:\n  web:\n    image: i\n{rest}"));
    assert_eq!(report, expected.trim_matches('\n'), "\n{report}");
}

#[track_caller]
fn file(text: impl AsRef<[u8]>, expected: &str) {
    let report = report(text);
    assert_eq!(report, expected.trim_matches('\n'), "\n{report}");
}
