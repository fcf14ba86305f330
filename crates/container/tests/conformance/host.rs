//! What a container leaves on the host: nothing.

use bulkhead_model::testing::{Fixture, run};

use crate::support::Host;

pub const SCENARIOS: &[(&str, fn(&Host))] = &[("nothing_is_left", nothing_left)];

fn nothing_left(host: &Host) {
    let before = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    run(host, &host.spec(&["true"]));
    let after = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    assert_eq!(before, after);
}
