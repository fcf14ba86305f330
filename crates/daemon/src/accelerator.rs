//! The accelerator that a sandbox's label forces.

use std::collections::{BTreeMap, HashMap};

use bulkhead_api::docker::ACCELERATOR_LABEL;
use bulkhead_microvm::Accelerator;
use bulkhead_microvm::accelerator::{AcceleratorChoice, require_kvm};
use bulkhead_model::{Error, Kind, Result};

/// Refuses what the label cannot mean. On a container only the user's own label counts: what an
/// image says of micro VMs keeps nobody from running it in a container.
///
/// # Errors
/// `InvalidInput` naming the label and its values.
pub(crate) fn check(
    kind: Kind,
    own: Option<&HashMap<String, String>>,
    merged: &BTreeMap<String, String>,
) -> Result<()> {
    match kind {
        Kind::Microvm => forced(merged).map(drop),
        Kind::Container if own.is_some_and(|labels| labels.contains_key(ACCELERATOR_LABEL)) => {
            Err(Error::invalid(format!(
                "label {ACCELERATOR_LABEL}: a container has no accelerator: use the runtime \
                 'microvm', or leave the label out"
            )))
        }
        Kind::Container => Ok(()),
    }
}

/// What the label says; `None` where there is none.
///
/// # Errors
/// `InvalidInput` for anything but `kvm` and `tcg`.
pub(crate) fn forced(labels: &BTreeMap<String, String>) -> Result<Option<Accelerator>> {
    let Some(value) = labels.get(ACCELERATOR_LABEL) else {
        return Ok(None);
    };
    value
        .parse()
        .map(Some)
        .map_err(|error| Error::invalid(format!("label {ACCELERATOR_LABEL}: {error}")))
}

/// What a micro VM of these labels runs with on this host.
///
/// # Errors
/// `InvalidInput` as [`forced`].
pub(crate) fn choose(
    labels: &BTreeMap<String, String>,
    proven: AcceleratorChoice,
) -> Result<AcceleratorChoice> {
    let Some(accelerator) = forced(labels)? else {
        return Ok(proven);
    };
    let mut reason = format!("forced by the label {ACCELERATOR_LABEL}");
    if accelerator != proven.accelerator {
        reason = format!(
            "{reason}; without it {}, because {}",
            proven.accelerator, proven.reason
        );
    }
    Ok(AcceleratorChoice {
        accelerator,
        reason,
    })
}

/// # Errors
/// `Unsupported` with the reason where KVM is forced and cannot be used at all.
pub(crate) fn require(labels: &BTreeMap<String, String>) -> Result<()> {
    match forced(labels)? {
        Some(Accelerator::Kvm) => require_kvm().map_err(|error| {
            Error::unsupported(format!(
                "label {ACCELERATOR_LABEL}: kvm cannot be used: {error}"
            ))
        }),
        Some(Accelerator::Tcg) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(value: &str) -> BTreeMap<String, String> {
        [(ACCELERATOR_LABEL.to_owned(), value.to_owned())].into()
    }

    fn proven(accelerator: Accelerator) -> AcceleratorChoice {
        AcceleratorChoice {
            accelerator,
            reason: "a loop took 9 µs".to_owned(),
        }
    }

    #[test]
    fn without_a_label_the_proof_decides() {
        let proven = proven(Accelerator::Kvm);
        let chosen = choose(&BTreeMap::new(), proven.clone()).expect("choice");
        assert_eq!(chosen, proven);
    }

    #[test]
    fn a_label_forces_and_says_what_the_proof_would_have_chosen() {
        let chosen = choose(&labels("tcg"), proven(Accelerator::Kvm)).expect("choice");
        assert_eq!(chosen.accelerator, Accelerator::Tcg);
        assert_eq!(
            chosen.reason,
            "forced by the label bulkhead.accelerator; without it kvm, because a loop took 9 µs"
        );
        let same = choose(&labels("kvm"), proven(Accelerator::Kvm)).expect("choice");
        assert_eq!(same.reason, "forced by the label bulkhead.accelerator");
    }

    #[test]
    fn what_the_label_cannot_mean_is_refused() {
        for value in ["", "KVM", "hvf"] {
            let error = check(Kind::Microvm, None, &labels(value)).expect_err(value);
            assert_eq!(
                error.to_string(),
                format!(
                    "label bulkhead.accelerator: unknown accelerator '{value}': use 'kvm' or 'tcg'"
                )
            );
        }
        let own = labels("kvm").into_iter().collect();
        let error = check(Kind::Container, Some(&own), &labels("kvm")).expect_err("container");
        assert!(
            error.to_string().contains("bulkhead.accelerator"),
            "{error}"
        );
        check(Kind::Container, None, &labels("kvm")).expect("an image's label");
        check(Kind::Microvm, Some(&own), &labels("kvm")).expect("micro VM");
    }
}
