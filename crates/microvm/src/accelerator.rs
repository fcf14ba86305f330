//! Decides what runs the guests' processors: hardware where it is proven to work, else software.
//!
//! That `/dev/kvm` opens proves nothing: inside some virtual machines it emulates what a guest's
//! kernel does, one instruction at a time, so that Linux takes minutes to boot or dies. So a loop
//! is run in ring 0, with memory accesses, and timed.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use bulkhead_model::{Error, Result};

use crate::monitor::Accelerator;
use crate::{cache, kvm};

/// Where the choice is kept, for as long as the machine runs.
const FILE: &str = "accelerator";

/// How long the proof may take on a machine that is busy; on a quiet one it takes 1 ms where
/// hardware works, and 100 ms where it is emulated.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Hardware runs the loop in less than 100 µs; an emulator takes 30 ms.
const FAST: Duration = Duration::from_millis(2);

/// Attempts, of which the fastest counts: a busy machine makes any of them slow.
const ATTEMPTS: usize = 3;

/// What was chosen, and why, in words for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceleratorChoice {
    pub accelerator: Accelerator,
    pub reason: String,
}

/// Chooses, or tells what was chosen since the machine booted. The choice is kept in `run_dir`;
/// where it cannot be kept, it is made again the next time.
pub fn probe(run_dir: &Path) -> AcceleratorChoice {
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let file = run_dir.join(FILE);
    if let Some(choice) = fs::read_to_string(&file)
        .ok()
        .and_then(|text| parse(&text, boot_id.trim()))
    {
        return choice;
    }
    let (choice, is_certain) = prove();
    tracing::debug!(accelerator = %choice.accelerator, reason = choice.reason, "probed");
    if !is_certain {
        return choice;
    }
    let text = format!(
        "{}\n{}\n{}\n",
        boot_id.trim(),
        choice.accelerator,
        choice.reason
    );
    // A file of another boot is in the way; two probes at once write the same.
    let _ = fs::remove_file(&file);
    let _ = cache::write(&file, text.as_bytes());
    choice
}

/// Whether KVM can be used at all, well or badly: for those who want it without a proof.
///
/// # Errors
/// `Unsupported` with the reason if its device cannot be opened.
pub fn require_kvm() -> Result<()> {
    match OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(_) => Ok(()),
        // Without the system's own words: clients take those for what befell the workload.
        Err(error) => Err(Error::unsupported(cannot_open(&error))),
    }
}

/// Why `/dev/kvm` is of no use, in words for the user.
fn cannot_open(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "this machine has no /dev/kvm: no hardware virtualisation, or the module kvm_intel or \
             kvm_amd is not loaded"
                .to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "no permission for /dev/kvm: become a member of its group".to_owned()
        }
        _ => format!("/dev/kvm does not run code: {error}"),
    }
}

fn parse(text: &str, boot_id: &str) -> Option<AcceleratorChoice> {
    let mut lines = text.lines();
    if boot_id.is_empty() || lines.next()? != boot_id {
        return None;
    }
    let accelerator = match lines.next()? {
        "kvm" => Accelerator::Kvm,
        "tcg" => Accelerator::Tcg,
        _ => return None,
    };
    Some(AcceleratorChoice {
        accelerator,
        reason: lines.next()?.to_owned(),
    })
}

/// The choice, and whether asking again would give the same.
fn prove() -> (AcceleratorChoice, bool) {
    let (sender, receiver) = sync_channel(1);
    // In a thread of its own, which ends soon after the time is up: the loop is short even where
    // it is emulated.
    let thread = std::thread::Builder::new()
        .name("kvm-proof".to_owned())
        .spawn(move || sender.send(fastest_run()));
    let result = match thread {
        Ok(_) => receiver.recv_timeout(TIMEOUT),
        Err(error) => Ok(Err(error)),
    };
    let is_certain = result.is_ok();
    let (accelerator, reason) = match result {
        Ok(Ok(time)) if time <= FAST => (
            Accelerator::Kvm,
            format!("hardware virtualisation works: a loop in ring 0 took {time:?}"),
        ),
        Ok(Ok(time)) => (
            Accelerator::Tcg,
            format!(
                "/dev/kvm emulates the guest's kernel instead of running it: a loop in ring 0 took \
                 {time:?} instead of some microseconds"
            ),
        ),
        Ok(Err(error)) => (Accelerator::Tcg, cannot_open(&error)),
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => (
            Accelerator::Tcg,
            format!("/dev/kvm did not run a loop in ring 0 within {TIMEOUT:?}"),
        ),
    };
    let choice = AcceleratorChoice {
        accelerator,
        reason,
    };
    (choice, is_certain)
}

fn fastest_run() -> io::Result<Duration> {
    let mut fastest = kvm::run_loop()?;
    for _ in 1..ATTEMPTS {
        if fastest <= FAST {
            break;
        }
        fastest = fastest.min(kvm::run_loop()?);
    }
    Ok(fastest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_is_kept_for_one_boot() {
        let directory = tempfile::tempdir().unwrap();
        let first = probe(directory.path());
        assert!(!first.reason.is_empty() && !first.reason.contains('\n'));
        let Ok(kept) = fs::read_to_string(directory.path().join(FILE)) else {
            eprintln!("skipped: the machine is too busy to prove anything");
            return;
        };
        assert_eq!(probe(directory.path()), first);
        let (boot_id, rest) = kept.split_once('\n').unwrap();
        assert_eq!(parse(&kept, boot_id), Some(first));
        assert_eq!(parse(&format!("another\n{rest}"), boot_id), None);
    }
}
