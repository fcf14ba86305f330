//! How the binary is linked (docs/decisions/0042): a process of `bulkhead oci` lives for some
//! milliseconds, and pays for every page of the binary that it touches.

use std::env;
use std::path::PathBuf;

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let script = manifest.join("link.ld");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={}", script.display());
    println!("cargo::rustc-link-arg-bins=-Wl,-T,{}", script.display());
    // Relocations take a bit each, where the usual form takes 24 bytes: half a MiB that every start
    // of the binary reads.
    println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
}
