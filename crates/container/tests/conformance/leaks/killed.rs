//! The runtime killed with `SIGKILL` at any instant.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::Watch;
use crate::bundle::Bundle;
use crate::support::Host;

const SEED: u64 = 0x5eed_0003_0006_0500;
const CREATES: usize = 500;
/// Of each of the other verbs.
const OTHERS: usize = 40;
const WORKERS: usize = 3;

/// xorshift64: the same numbers at each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit.max(1)
    }
}

/// Bundles that differ in what a create has to wait for.
fn bundles(host: &Host) -> Vec<Bundle> {
    let plain = Bundle::new(host, &["sleep", "1000"]);
    let mut hooked = Bundle::new(host, &["sleep", "1000"]);
    let hook = json!([{"path": "/bin/sleep", "args": ["sleep", "0.003"]}]);
    hooked.config["hooks"] =
        json!({"createRuntime": hook, "createContainer": hook, "startContainer": hook});
    let bundles = vec![plain, hooked];
    bundles.iter().for_each(Bundle::write);
    bundles
}

const CREATE: &[&str] = &["create", "--pid-file", "pid"];

pub fn creates(host: &Host) {
    let done = AtomicUsize::new(0);
    let cut = AtomicUsize::new(0);
    eprintln!("seed {SEED:#x}");
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (done, cut) = (&done, &cut);
            scope.spawn(move || {
                let mut random = Random(SEED + worker as u64);
                let Some(watch) = Watch::new() else {
                    return;
                };
                let bundles = bundles(host);
                let durations: Vec<_> = bundles
                    .iter()
                    .map(|bundle| duration(&watch, bundle, CREATE))
                    .collect();
                loop {
                    let number = done.fetch_add(1, Ordering::Relaxed);
                    if number >= CREATES {
                        return;
                    }
                    let bundle = &bundles[number % bundles.len()];
                    let longest = durations[number % bundles.len()];
                    if kill(&watch, bundle, CREATE, longest, &mut random) {
                        cut.fetch_add(1, Ordering::Relaxed);
                    }
                    delete(&watch, bundle, &format!("killed create {number}"));
                }
            });
        }
    });
    let cut = cut.into_inner();
    eprintln!("{cut} of {CREATES} creates were cut off");
}

pub fn other_verbs(host: &Host) {
    eprintln!("seed {SEED:#x}");
    std::thread::scope(|scope| {
        for (verb, before) in [
            (&["run", "--detach", "--pid-file", "pid"][..], &[][..]),
            (&["run"], &[]),
            (&["start"], &["create"]),
            (&["delete", "--force"], &["run", "--detach"]),
            (&["exec", "--pid-file", "pid"], &["run", "--detach"]),
        ] {
            scope.spawn(move || {
                let mut random = Random(SEED);
                let Some(watch) = Watch::new() else {
                    return;
                };
                let bundles = bundles(host);
                for number in 0..OTHERS {
                    let bundle = &bundles[number % bundles.len()];
                    if !before.is_empty() {
                        let answer = bundle.detached(&[before, &[&bundle.id]].concat());
                        assert_eq!(answer.code, 0, "before {verb:?} {number}: {}", answer.err);
                    }
                    // A foreground run does not end by itself: 30 ms show all of it.
                    let longest = Duration::from_millis(30);
                    kill(&watch, bundle, verb, longest, &mut random);
                    delete(&watch, bundle, &format!("killed {verb:?} {number}"));
                }
            });
        }
    });
}

/// How long the verb takes, undisturbed.
fn duration(watch: &Watch, bundle: &Bundle, verb: &[&str]) -> Duration {
    let once = || {
        let mut command = command(watch, bundle, verb);
        let before = Instant::now();
        assert!(command.status().expect("run").success());
        let duration = before.elapsed();
        delete(watch, bundle, "an undisturbed create");
        duration
    };
    let mut durations: Vec<_> = (0..7).map(|_| once()).collect();
    durations.sort_unstable();
    durations[durations.len() / 2]
}

fn command(watch: &Watch, bundle: &Bundle, verb: &[&str]) -> Command {
    let program: &[&str] = match verb[0] {
        "exec" => &["sleep", "1000"],
        _ => &[],
    };
    watch.command(bundle, &[verb, &[&bundle.id], program].concat())
}

/// Kills the verb some time after its start; whether that came before its end.
fn kill(
    watch: &Watch,
    bundle: &Bundle,
    verb: &[&str],
    longest: Duration,
    random: &mut Random,
) -> bool {
    let delay = Duration::from_micros(random.below(longest.as_micros() as u64));
    let mut child = command(watch, bundle, verb).spawn().expect("spawn");
    std::thread::sleep(delay);
    child.kill().expect("kill");
    child.wait().expect("wait").signal() == Some(9)
}

fn delete(watch: &Watch, bundle: &Bundle, after: &str) {
    let answer = bundle.run(&["delete", "--force", &bundle.id]);
    assert_eq!(answer.code, 0, "after {after}: {}", answer.err);
    watch.assert_gone(bundle, after);
}
