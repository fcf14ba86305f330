//! The proof of the first promise: one line decides what a service runs in, and nothing else
//! changes. The same scenario passes on the mixed shop, on containers and on micro VMs.

use anyhow::Result;
use bulkhead_e2e::Instance;
use bulkhead_e2e::instance::repository;
use bulkhead_e2e::shop::Shop;

fn live(files: &[&str], kind_of: impl Fn(&str) -> &'static str) -> Result<()> {
    let Some(instance) = Instance::new(&repository().join("examples/shop"))? else {
        return Ok(());
    };
    Shop::new(&instance, files).live(kind_of)
}

#[test]
fn the_shop_lives_in_containers_and_a_micro_vm() -> Result<()> {
    live(&["compose.yaml"], |service| match service {
        "payments" => "microvm",
        _ => "container",
    })
}

#[test]
fn the_shop_lives_in_containers() -> Result<()> {
    live(
        &["compose.yaml", "compose.containers.yaml"],
        |_| "container",
    )
}

#[test]
fn the_shop_lives_in_micro_vms() -> Result<()> {
    live(&["compose.yaml", "compose.microvms.yaml"], |_| "microvm")
}
