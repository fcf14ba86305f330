//! The door of the fuzz targets (`fuzz/` in the repository): what reads input of others, called
//! without a host. Compiled with the feature `fuzzing`, and for the tests, which replay the
//! targets' seeds.

use bulkhead_model::{Result, Seccomp, Security};

use crate::capabilities::CapabilitySet;
use crate::oci::dry_run::seccomp_filter;
use crate::seccomp::{self, Filter};

pub use crate::oci::dry_run::check_configuration as configuration;

/// One instruction of a filter: code, jump if true, jump if false, value.
pub type Instruction = (u16, u8, u8, u32);

/// The programs of a profile, read in Docker's form and in that of the specification; an empty one
/// if the profile says nothing.
pub fn seccomp(profile: &str) -> [Result<Vec<Instruction>>; 2] {
    let security = Security {
        seccomp: Seccomp::Profile(profile.into()),
        ..Security::default()
    };
    let dockers = seccomp::filter(&security, CapabilitySet(0)).map(Option::unwrap_or_default);
    [dockers, seccomp_filter(profile)].map(|filter| filter.map(|filter| program(&filter)))
}

fn program(filter: &Filter) -> Vec<Instruction> {
    filter
        .instructions()
        .iter()
        .map(|instruction| {
            (
                instruction.code,
                instruction.jump_true,
                instruction.jump_false,
                instruction.value,
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The seeds of a target, by name.
    fn seeds(target: &str) -> Vec<(String, String)> {
        let directory = format!("{}/../../fuzz/seeds/{target}", env!("CARGO_MANIFEST_DIR"));
        let mut seeds: Vec<_> = std::fs::read_dir(&directory)
            .expect("seeds")
            .map(|entry| {
                let entry = entry.expect("entry");
                let name = entry.file_name().to_string_lossy().into_owned();
                (name, std::fs::read_to_string(entry.path()).expect("text"))
            })
            .collect();
        seeds.sort();
        assert!(!seeds.is_empty(), "{directory}");
        seeds
    }

    /// Those whose name says so are refused, and no others: what is refused by mistake is of no use
    /// as a seed. Where the name begins with `any`, either will do.
    fn assert_answer(name: &str, result: Result<()>) {
        if name.starts_with("any") {
            return;
        }
        let message = result.map_err(|error| error.to_string()).err();
        assert_eq!(
            message.is_some(),
            name.starts_with("bad"),
            "{name}: {message:?}"
        );
    }

    #[test]
    fn the_seeds_of_configurations_are_answered() {
        for (name, text) in seeds("configuration") {
            assert_answer(&name, configuration(&text));
        }
    }

    #[test]
    fn the_seeds_of_profiles_are_answered() {
        for (name, text) in seeds("seccomp") {
            let [dockers, _] = seccomp(&text);
            assert_answer(&name, dockers.map(|program| assert!(!program.is_empty())));
        }
    }
}
