//! CVE-2019-5736: a container that writes to the program of the runtime that starts it.
//!
//! The runtime is a copy of this program, and the container may do everything that root may. Its
//! program is `#!/proc/self/exe`, so that the kernel runs the runtime's own file in the container,
//! where the attacker takes a descriptor of it, to write when nothing runs from it any more.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use serde_json::json;

use crate::bundle::Bundle;
use crate::support::Host;

/// Opens the file behind process `$1` by reading, which is allowed, says so, ends that process
/// where `$2` asks for it, and writes by way of the descriptor as soon as nothing runs from the
/// file any more.
const ATTACK: &str = r#"
exec 3</proc/$1/exe && echo >/opened
[ "$2" != kill ] || kill -9 $1
for i in $(seq 100); do
    text=$( (echo overwritten >/proc/self/fd/3) 2>&1 ) && text=overwritten
    case $text in *busy*) sleep 0.1 ;; *) break ;; esac
done
echo "$text" >/told
mv /told /end
"#;

struct Attacked {
    bundle: Bundle,
    runtime: PathBuf,
    before: u64,
}

impl Attacked {
    fn new(host: &Host, args: &[&str]) -> Self {
        let mut bundle = Bundle::new(host, args);
        let every = capabilities();
        for set in ["bounding", "effective", "permitted"] {
            bundle.config["process"]["capabilities"][set] = json!(every);
        }
        bundle.config["process"]["noNewPrivileges"] = json!(false);
        bundle.write();
        let runtime = bundle.directory.join("runtime");
        fs::copy(std::env::current_exe().expect("program"), &runtime).expect("copy");
        let evil = bundle.directory.join("rootfs/evil");
        fs::write(&evil, "#!/proc/self/exe linger\n").expect("script");
        fs::set_permissions(&evil, fs::Permissions::from_mode(0o755)).expect("mode");
        let before = fs::metadata(&runtime).expect("runtime").len();
        Self {
            bundle,
            runtime,
            before,
        }
    }

    fn oci(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.runtime);
        command
            .args(["oci", "--root"])
            .arg(&self.bundle.root)
            .args(arguments)
            .current_dir(&self.bundle.directory)
            .stdin(Stdio::null());
        command
    }

    /// Runs the attack on that process of the container, and `then` when it has its descriptor.
    fn attack(&self, pid: &str, kill: &str, then: impl FnOnce()) {
        self.quiet(&[
            "exec",
            "--detach",
            &self.bundle.id,
            "sh",
            "-c",
            ATTACK,
            "sh",
            pid,
            kill,
        ]);
        self.await_file("opened");
        then();
        let told = self.await_file("end");
        let after = fs::metadata(&self.runtime).expect("runtime").len();
        assert_eq!(after, self.before, "the runtime was overwritten: {told}");
        assert!(told.contains("Read-only file system"), "{told}");
    }

    /// The text of a file of the container's, when it is there.
    fn await_file(&self, name: &str) -> String {
        let path = self.bundle.directory.join("rootfs").join(name);
        for _ in 0..3000 {
            if let Ok(text) = fs::read_to_string(&path) {
                return text;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("the attack does not come to {name}");
    }

    fn quiet(&self, arguments: &[&str]) {
        let mut command = self.oci(arguments);
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(status.expect("oci").success(), "{arguments:?}");
    }
}

/// By number (capabilities(7)); those with which files and processes are reached.
const CAPABILITIES: &[(u32, &str)] = &[
    (0, "CAP_CHOWN"),
    (1, "CAP_DAC_OVERRIDE"),
    (2, "CAP_DAC_READ_SEARCH"),
    (3, "CAP_FOWNER"),
    (5, "CAP_KILL"),
    (9, "CAP_LINUX_IMMUTABLE"),
    (19, "CAP_SYS_PTRACE"),
    (21, "CAP_SYS_ADMIN"),
    (24, "CAP_SYS_RESOURCE"),
];

/// Those of them that this host gives us.
fn capabilities() -> Vec<&'static str> {
    let status = fs::read_to_string("/proc/self/status").expect("status");
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:\t"))
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .expect("capabilities");
    CAPABILITIES
        .iter()
        .filter(|(number, _)| effective & (1 << number) != 0)
        .map(|(_, name)| *name)
        .collect()
}

pub fn at_create(host: &Host) {
    // The init, which waits for its start with the runtime's program, and then runs another.
    let attacked = Attacked::new(host, &["sleep", "1000"]);
    let id = attacked.bundle.id.as_str();
    attacked.quiet(&["create", id]);
    attacked.attack("1", "", || attacked.quiet(&["start", id]));
}

pub fn at_exec(host: &Host) {
    let attacked = Attacked::new(host, &["sleep", "1000"]);
    let id = attacked.bundle.id.as_str();
    attacked.quiet(&["run", "--detach", id]);
    attacked.quiet(&["exec", "--detach", id, "/evil"]);
    let find = "for p in /proc/[0-9]*; do grep -q linger $p/cmdline && basename $p; done";
    let output = attacked.oci(&["exec", id, "sh", "-c", find]).output();
    let found = String::from_utf8_lossy(&output.expect("exec").stdout).into_owned();
    // The shell that searches has the word in its own arguments, and comes later.
    let pid = found.lines().next().expect("the process");
    attacked.attack(pid, "kill", || {});
}

/// Entry of the runtime's program inside the container.
pub fn linger() -> ExitCode {
    std::thread::sleep(std::time::Duration::from_secs(1000));
    ExitCode::SUCCESS
}
