//! What a container must not be able to do.

use bulkhead_model::testing::{Fixture, run};

use crate::support::Host;

pub const SCENARIOS: &[(&str, fn(&Host))] = &[("capabilities_are_the_default_set", capabilities)];

fn capabilities(host: &Host) {
    let spec = host.spec(&[
        "grep",
        "-E",
        "^(Cap|NoNewPrivs|Seccomp:)",
        "/proc/self/status",
    ]);
    let output = run(host, &spec);
    let expected = "CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\n\
                    CapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2";
    assert_eq!(output.text(), expected);
}
