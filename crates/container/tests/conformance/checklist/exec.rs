//! Who an exec'd process is, and what it may do.

use std::fs;

use serde_json::{Value, json};

use crate::bundle::{Answer, Bundle};
use crate::support::Host;

fn exec(bundle: &Bundle, flags: &[&str], command: &[&str]) -> Answer {
    bundle.run(&[&["exec"], flags, &[&bundle.id], command].concat())
}

/// CVE-2022-27650: what is inheritable is got back by any program whose file has it.
pub fn capabilities(host: &Host) {
    let bundle = Bundle::new(host, &["sleep", "1000"]);
    bundle.start();
    let status = ["grep", "^Cap", "/proc/self/status"];
    for user in ["0", "7:8"] {
        let flags = ["--cap", "CAP_CHOWN", "--cap", "CAP_NET_RAW", "--user", user];
        let text = exec(&bundle, &flags, &status).output();
        for set in ["CapInh", "CapAmb"] {
            assert!(
                text.contains(&format!("{set}:\t0000000000000000")),
                "{text}"
            );
        }
    }
    let text = exec(&bundle, &["--cap", "CAP_CHOWN"], &status).output();
    // CAP_CHOWN beside those of the specification's default.
    assert!(text.contains("CapEff:\t0000000020000421"), "{text}");
    let text = exec(&bundle, &[], &status).output();
    assert!(text.contains("CapInh:\t0000000000000000"), "{text}");
}

/// CVE-2026-30892: what is no number of a user must not become one, root's least of all.
pub fn odd_users(host: &Host) {
    let bundle = Bundle::new(host, &["sleep", "1000"]);
    bundle.start();
    let who = ["sh", "-c", "id -u; id -g"];
    assert_eq!(exec(&bundle, &["--user", "7:8"], &who).output(), "7\n8\n");
    assert_eq!(
        exec(&bundle, &["--user", "2147483647"], &who).output(),
        "2147483647\n0\n"
    );
    for user in [
        "",
        " ",
        "-1",
        "+0",
        "+5",
        "0x0",
        "1000 ",
        " 0",
        "1e3",
        "7:",
        ":7",
        ":",
        "7:8:9",
        "7:-1",
        "7:+8",
        "7: 8",
        "4294967295",
        "4294967296",
        "18446744073709551616",
        "root",
        "0\t",
        "٣",
    ] {
        let answer = exec(&bundle, &["--user", user], &who);
        assert_eq!(answer.code, 255, "'{user}' was taken: {}", answer.out);
        assert!(answer.err.contains("--user"), "{}", answer.err);
    }
    for group in [
        "",
        "-1",
        "+5",
        " 5",
        "0x5",
        "4294967295",
        "4294967296",
        "wheel",
    ] {
        let answer = exec(&bundle, &["--additional-gids", group], &who);
        assert_eq!(answer.code, 255, "'{group}' was taken: {}", answer.out);
        assert!(answer.err.contains("--additional-gids"), "{}", answer.err);
    }
}

/// The number that setresuid(2) takes for "leave it as it is", which is root.
pub fn nobody(host: &Host) {
    let bundle = Bundle::new(host, &["sleep", "1000"]);
    bundle.start();
    let with = |user: Value| {
        let process = json!({"args": ["id"], "cwd": "/", "env": ["PATH=/bin"], "user": user});
        fs::write(bundle.directory.join("process.json"), process.to_string()).expect("process");
        exec(&bundle, &["--process", "process.json"], &[])
    };
    for (user, field) in [
        (json!({"uid": u32::MAX, "gid": 0}), "process.user.uid"),
        (json!({"uid": 0, "gid": u32::MAX}), "process.user.gid"),
        (
            json!({"uid": 5, "gid": 5, "additionalGids": [1, u32::MAX]}),
            "process.user.additionalGids[1]",
        ),
        (json!({"uid": -1, "gid": 0}), "user.uid"),
        (json!({"uid": 4_294_967_296_u64, "gid": 0}), "user.uid"),
        (json!({"uid": "0", "gid": 0}), "user.uid"),
        (json!({"uid": 1.5, "gid": 0}), "user.uid"),
    ] {
        let text = user.to_string();
        let answer = with(user);
        assert_eq!(
            (answer.code, answer.out.as_str()),
            (255, ""),
            "{text} was taken"
        );
        assert!(answer.err.contains(field), "{text}: {}", answer.err);
    }
    let mut created = Bundle::new(host, &["id"]);
    created.config["process"]["user"] = json!({"uid": u32::MAX, "gid": u32::MAX});
    created.play().refused("process.user.uid");
    created.assert_gone();
}
