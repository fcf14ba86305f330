//! Builds the guest agent, which the library embeds, as a program of its own.
//!
//! It gets a target directory below ours: the lock on the workspace's is held by the cargo that
//! runs us. It is always built for size and without debug information, because every boot of a
//! guest copies it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-musl";

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let crates = manifest.parent().expect("the crate is below crates/");
    for watched in [
        "guest/src",
        "guest/Cargo.toml",
        "model/src",
        "model/Cargo.toml",
    ] {
        println!("cargo::rerun-if-changed={}", crates.join(watched).display());
    }
    let target_dir = out.join("agent-target");
    build(crates, &target_dir);
    let agent = target_dir.join(TARGET).join("release/bulkhead-agent");
    std::fs::copy(&agent, out.join("bulkhead-agent")).expect("copy the agent that was built");
}

fn build(crates: &Path, target_dir: &Path) {
    let mut command = Command::new(env::var_os("CARGO").expect("cargo sets it"));
    // What cargo and clippy tell their own compilers must not reach this one.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let foreign = text.starts_with("CARGO_FEATURE_")
            || text.starts_with("CARGO_CFG_")
            || text.starts_with("CARGO_PROFILE_")
            || text.starts_with("CARGO_ENCODED")
            || text.starts_with("CLIPPY_")
            || text == "RUSTC_WORKSPACE_WRAPPER"
            || text == "RUSTC_WRAPPER"
            || text == "RUSTFLAGS";
        if foreign {
            command.env_remove(&name);
        }
    }
    let status = command
        .arg("build")
        .args(["--package", "bulkhead-guest", "--bin", "bulkhead-agent"])
        .args(["--release", "--target", TARGET, "--target-dir"])
        .arg(target_dir)
        .current_dir(crates)
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "s")
        .env("CARGO_PROFILE_RELEASE_LTO", "true")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_STRIP", "symbols")
        .env_remove("CARGO_TARGET_DIR")
        .status()
        .expect("run cargo to build the guest agent");
    assert!(status.success(), "the guest agent does not build");
}
