# Every target installs what it needs first (scripts/install-deps: Debian packages, when it may).
.DEFAULT_GOAL := help
.PHONY: help demo test check build bench docs fuzz soak deps

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: deps ## two nodes on this machine, one push mirrored (DEMO=--once to stop at the end)
	cargo build --locked
	target/debug/gitmesh demo $(DEMO)

test: check ## everything CI runs: check, all tests, documentation
	cargo test --locked
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --quiet

check: deps ## format and lints
	cargo fmt --check
	cargo clippy --locked --all-targets --quiet -- -D warnings

build: deps ## the optimised binary, target/release/gitmesh
	cargo build --locked --release

deb: build ## a Debian package of it, in target/
	packaging/deb target/release/gitmesh target

bench: build ## the benchmark table, side by side with gitolite and sshd (as root; see BENCHMARKS.md)
	scripts/bench

docs: deps ## docs/commands.md, from the sessions that the tests play
	GITMESH_DOCS=write cargo test --locked --test all sessions_are_the_reference

fuzz: ## random input for every parser for a minute (FUZZ_SECONDS=N); installs cargo-fuzz and a nightly compiler
	@scripts/fuzz

soak: deps ## random pushes and faults on three nodes, then every promise is checked; ends with one line of figures (SECONDS=3600 SEED=7)
	@SOAK_SECONDS=$(SECONDS) SOAK_SEED=$(SEED) cargo test --locked --test all -- soak --nocapture 2>&1 | \
	  awk '/promises broken$$/ { figures = $$0; next } /^soak|^not ack|panicked|^ *"|^error|left over/; /test result: ok. 1 passed/ { well = 1 } \
	    END { print figures ? figures : "soak: it did not come to its figures"; exit !well }'

deps:
	@scripts/install-deps
