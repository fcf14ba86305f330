//! How fast the host's time stamp counter runs.
//!
//! Under software emulation the guest's counter is the host's. A guest would measure it against
//! emulated timers, which fails on a busy machine and leaves a clock that ticks every 10 ms. So it
//! is measured here, once for every boot of the host, and told to the guests.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::{cache, sys};

const FILE: &str = "tsc-khz";

/// The longer, the more exact: the error of a pair of readings is about 100 ns.
const WINDOW: Duration = Duration::from_millis(20);

/// The frequency in kilohertz; `None` where the counter does not run steadily.
pub(crate) fn tsc_khz(cache_dir: &Path) -> Option<u64> {
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let file = cache_dir.join(FILE);
    if let Ok(text) = fs::read_to_string(&file)
        && let Some(rest) = text.strip_prefix(&boot_id)
    {
        return rest.trim().parse().ok();
    }
    let khz = measure()?;
    // What is there is of another boot. Two that measure at once write what is equally right.
    let _ = fs::remove_file(&file);
    let _ = cache::write(&file, format!("{boot_id}{khz}\n").as_bytes());
    Some(khz)
}

fn measure() -> Option<u64> {
    let (start_time, start_ticks) = reading();
    std::thread::sleep(WINDOW);
    let (end_time, end_ticks) = reading();
    let nanoseconds = (end_time - start_time).as_nanos() as u64;
    let ticks = end_ticks.checked_sub(start_ticks)?;
    let khz = u128::from(ticks) * 1_000_000 / u128::from(nanoseconds.max(1));
    u64::try_from(khz)
        .ok()
        .filter(|khz| (500_000..10_000_000).contains(khz))
}

/// Time and ticks of the same moment: of several pairs, the one that was read fastest, because
/// nothing came in between.
fn reading() -> (Instant, u64) {
    let pair = || {
        let before = sys::time_stamp();
        let time = Instant::now();
        let after = sys::time_stamp();
        (
            after.wrapping_sub(before),
            (time, before + (after.wrapping_sub(before)) / 2),
        )
    };
    let pairs = (0..16).map(|_| pair());
    pairs
        .min_by_key(|(gap, _)| *gap)
        .map_or_else(|| (Instant::now(), sys::time_stamp()), |(_, pair)| pair)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_measured_once_a_boot_and_repeatably() {
        let directory = tempfile::tempdir().unwrap();
        let first = tsc_khz(directory.path()).unwrap();
        assert_eq!(tsc_khz(directory.path()), Some(first));
        let again = measure().unwrap();
        assert!(first.abs_diff(again) < first / 1000, "{first} {again}");
    }
}
