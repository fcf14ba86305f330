# The commands of the project; `make` lists them. What takes more than a line is in scripts/.

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
export BULKHEAD := $(abspath $(TARGET_DIR)/x86_64-unknown-linux-musl/release/bulkhead)

.DEFAULT_GOAL := help
.PHONY: help setup build kernel demo demo-down test fuzz bench fmt lint clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install the Debian packages and the Rust target that are missing (says which, uses sudo)
	@scripts/setup.sh build run test

build: ## build the static binary in release mode
	@scripts/setup.sh build
	cargo build --release --locked -p bulkhead-cli

kernel: ## build the guest kernel, once; it is cached
	@scripts/setup.sh build kernel
	@scripts/kernel.sh

demo: ## bring the example shop up, place an order, show what runs where; leaves it running
	@scripts/demo.sh

demo-down: ## remove every trace of the demo
	@scripts/demo-down.sh

test: ## set up, build and run all tests, the end-to-end ones included
	@scripts/test.sh

fuzz: ## run each fuzz target for a minute; a finding fails it
	@scripts/fuzz.sh

bench: ## measure against Docker and others in one run, write docs/benchmarks.md
	@scripts/bench/run.sh

fmt: ## format the code
	cargo fmt --all
	cargo fmt --manifest-path fuzz/Cargo.toml

lint: ## check format, lints and dependencies
	@scripts/lint.sh

clean: ## remove what was built; the caches below /var/cache/bulkhead stay
	cargo clean
