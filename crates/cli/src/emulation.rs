//! What the user is told before a micro VM runs on software.

use bulkhead_api::Client;
use bulkhead_api::bulkhead::BulkheadInfo;
use bulkhead_api::docker::{ACCELERATOR_LABEL, ContainerCreateBody};

/// What the daemon says of its host, where one of these sandboxes is a micro VM. A daemon that
/// cannot say it is no reason to stop.
pub async fn host<'a>(
    client: &Client,
    bodies: impl IntoIterator<Item = &'a ContainerCreateBody>,
) -> Option<BulkheadInfo> {
    match bodies.into_iter().any(is_micro_vm) {
        true => client.bulkhead_info().await.ok(),
        false => None,
    }
}

/// Why a sandbox runs on software; `None` if it does not.
pub fn reason(body: &ContainerCreateBody, info: &BulkheadInfo) -> Option<String> {
    if !is_micro_vm(body) {
        return None;
    }
    let labels = body.labels.as_ref();
    match labels.and_then(|labels| labels.get(ACCELERATOR_LABEL)) {
        Some(label) if label == "tcg" => Some(format!("forced by the label {ACCELERATOR_LABEL}")),
        Some(_) => None,
        None if info.accelerator == "tcg" => Some(info.accelerator_reason.clone()),
        None => None,
    }
}

pub fn note(reason: &str) -> String {
    format!(
        "note: micro VMs run on software emulation here ({reason}): CPU-bound code takes about \
         ten times as long"
    )
}

fn is_micro_vm(body: &ContainerCreateBody) -> bool {
    let host = body.host_config.as_ref();
    host.and_then(|host| host.runtime.as_deref()) == Some("microvm")
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_api::docker::HostConfig;

    #[test]
    fn the_label_outranks_the_host() {
        let info = |accelerator: &str| BulkheadInfo {
            accelerator: accelerator.to_owned(),
            accelerator_reason: "no /dev/kvm".to_owned(),
            ..BulkheadInfo::default()
        };
        let body = |label: Option<&str>| ContainerCreateBody {
            host_config: Some(HostConfig {
                runtime: Some("microvm".to_owned()),
                ..HostConfig::default()
            }),
            labels: label.map(|label| [(ACCELERATOR_LABEL.to_owned(), label.to_owned())].into()),
            ..ContainerCreateBody::default()
        };
        let forced = Some("forced by the label bulkhead.accelerator".to_owned());
        assert_eq!(reason(&body(Some("tcg")), &info("kvm")), forced);
        assert_eq!(reason(&body(Some("kvm")), &info("tcg")), None);
        assert_eq!(reason(&body(None), &info("kvm")), None);
        assert_eq!(
            reason(&body(None), &info("tcg")).as_deref(),
            Some("no /dev/kvm")
        );
        let container = ContainerCreateBody::default();
        assert_eq!(reason(&container, &info("tcg")), None);
    }
}
