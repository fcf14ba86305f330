//! CVE-2025-52565: the terminal that is bound to `/dev/console`.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use super::paths::{Victim, add_mount, is_untouched, without_mounts};
use crate::bundle::{Answer, Bundle, ConsoleSocket};
use crate::support::Host;

/// A container with a terminal, whose `/dev` is the image's own.
fn bundle(host: &Host) -> Bundle {
    let mut bundle = Bundle::new(host, &["sleep", "1000"]);
    bundle.config["process"]["terminal"] = json!(true);
    without_mounts(&mut bundle, "/dev");
    fs::create_dir_all(bundle.directory.join("rootfs/dev/pts")).expect("dev");
    bundle
}

fn with_devpts(host: &Host) -> Bundle {
    let mut bundle = bundle(host);
    add_mount(
        &mut bundle,
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
               "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]}),
    );
    bundle
}

fn create(bundle: &Bundle, socket: &ConsoleSocket) -> Answer {
    let path = socket.path.to_str().expect("path");
    bundle.detached(&["create", "--console-socket", path, &bundle.id])
}

pub fn console(host: &Host) {
    for dangling in [true, false] {
        let bundle = with_devpts(host);
        let victim = Victim::new(host, &bundle);
        let name = if dangling { "missing" } else { "file" };
        let console = bundle.directory.join("rootfs/dev/console");
        symlink(victim.0.join(name), console).expect("link");
        bundle.write();
        let socket = ConsoleSocket::new(&bundle.directory);
        let answer = create(&bundle, &socket);
        victim.assert_untouched("the console");
        // The link itself is covered, or nothing is.
        if answer.code == 0 {
            let _terminal = socket.receive();
            let script = "exec 3<>/dev/console && test -t 3 && echo terminal";
            let answer = bundle.run(&["exec", &bundle.id, "sh", "-c", script]);
            assert_eq!(answer.output(), "terminal\n");
        }
    }
}

/// Another container exchanges the file for a link, and that for nothing, all the time.
pub fn exchanged_console(host: &Host) {
    let bundle = with_devpts(host);
    let victim = Victim::new(host, &bundle);
    bundle.write();
    let dev = bundle.directory.join("rootfs/dev");
    fs::write(dev.join("console"), "").expect("file");
    symlink(victim.0.join("missing"), dev.join("link")).expect("link");
    let socket = ConsoleSocket::new(&bundle.directory);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            let (console, link) = (dev.join("console"), dev.join("link"));
            let aside = dev.join("aside");
            while !stop.load(Ordering::Relaxed) {
                renameat_with(CWD, &console, CWD, &link, RenameFlags::EXCHANGE).expect("exchange");
                std::thread::sleep(std::time::Duration::from_micros(20));
                fs::rename(&console, &aside).expect("rename");
                std::thread::sleep(std::time::Duration::from_micros(20));
                // What the runtime has made there meanwhile goes.
                fs::rename(&aside, &console).expect("rename");
            }
        });
        for round in 0..100 {
            let answer = create(&bundle, &socket);
            if answer.code == 0 {
                drop(socket.receive());
            }
            let deleted = bundle.run(&["delete", "--force", &bundle.id]);
            if deleted.code != 0 || !is_untouched(&victim) {
                stop.store(true, Ordering::Relaxed);
            }
            assert_eq!(deleted.code, 0, "{}", deleted.err);
            victim.assert_untouched(&format!("round {round}"));
        }
        stop.store(true, Ordering::Relaxed);
    });
    bundle.assert_gone();
}

/// A directory of the image in place of a devpts, whose `ptmx` is something else.
pub fn decoy_devpts(host: &Host) {
    for target in ["/dev/ptmx", "/dev/null", "file"] {
        let bundle = bundle(host);
        let victim = Victim::new(host, &bundle);
        let pts = bundle.directory.join("rootfs/dev/pts");
        let ptmx = pts.join("ptmx");
        let file = victim.0.join("file");
        // Whatever number the terminal has, it is there, and is another file.
        for number in 0..64 {
            symlink(&file, pts.join(number.to_string())).expect("link");
        }
        match target {
            "file" => symlink(file, ptmx).expect("link"),
            other => symlink(other, ptmx).expect("link"),
        }
        bundle.write();
        let socket = ConsoleSocket::new(&bundle.directory);
        let answer = create(&bundle, &socket);
        assert_eq!(answer.code, 1, "{target} was taken for a terminal");
        victim.assert_untouched(target);
        bundle.assert_gone();
    }
}
