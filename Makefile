# The recipes of this project. `make help` prints them.

CARGO ?= cargo
SERVER := target/debug/rerank-server
# Tests that print what they measure, which cargo shows only where it is told to.
MEASURING := reranking_beats_the_vector_order float16_and_int8_keep_the_order a_thousand_slow_connections
DENY_VERSION := 0.20.2
DENY := target/tools/bin/cargo-deny
OHA_VERSION := 1.16.0
OHA := target/tools/bin/oha
CYCLONEDX_VERSION := 0.5.9
CYCLONEDX := target/tools/bin/cargo-cyclonedx

.DEFAULT_GOAL := help
.PHONY: help build demo api-server node kwok e2e test test-oldest test-processors lint deny advisories bench bench-growth bench-int8 bench-operator bench-peers bench-pods bench-products fail-overs load memory cycles timing peers golden models images sbom cuda

help: ## Print the recipes.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Always the whole workspace: another selection would resolve other features and compile the dependencies again.
build: ## Build everything, in the one profile that demo, tests and CI share.
	$(CARGO) build --workspace --locked

demo: build ## Index the corpus, answer five queries in both orders, then serve on loopback.
	$(SERVER) demo

api-server: ## Build the kube-apiserver and etcd of the tests, once (10 minutes; needs Go 1.26), or check those of KUBEBUILDER_ASSETS.
	tests/cluster/build.sh

test: build api-server ## Run every test. Needs Rust, Python 3 (four tests use its packages: clients, and the reader of traces) and Go 1.26.
	$(CARGO) test --workspace --locked -- $(MEASURING:%=--skip %)
	$(CARGO) test --workspace --locked --test '*' -- --nocapture $(MEASURING)

# Every file that starts an API server of Kubernetes.
KUBERNETES := specifications_are_accepted_or_refused random_specifications_are_understood the_api_server_is_real the_definition_can_change \
	the_operator_has_only_its_rights the_operator_keeps_its_word a_crash_at_any_write_changes_nothing a_lost_event_is_made_up_for \
	the_chart_installs_and_upgrades

test-oldest: build ## Run the tests of Kubernetes again on the oldest that is served, 1.34 (10 minutes more, once; needs Go 1.26).
	KUBEBUILDER_ASSETS="$$(tests/cluster/build.sh oldest | sed -n 's/^API server: //p')" \
		$(CARGO) test --workspace --locked $(KUBERNETES:%=--test %)

# One with neither AVX2 nor AVX-512, one without AVX-512.
PROCESSORS := Nehalem Haswell

test-processors: build ## Run the golden tests of the forward pass on older processors, emulated (needs qemu-user; a quarter of an hour).
	@command -v qemu-x86_64 >/dev/null || { echo "qemu-x86_64 is missing; Debian has it in qemu-user" >&2; exit 1; }
	for processor in $(PROCESSORS); do \
		CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="qemu-x86_64 -cpu $$processor" \
			$(CARGO) test --workspace --locked --test answers_equal_the_reference -- --nocapture the_reference || exit 1; \
	done

node: ## Build what runs the pods of `make e2e`, once (7 minutes; Linux, root; needs Go 1.26).
	tests/cluster/packages.sh
	tests/cluster/build.sh node

kwok: ## Build what pretends to run the pods of `make bench-pods`, once (3 minutes; needs Go 1.26).
	tests/cluster/build.sh kwok

# The arguments of `cargo test`: E2E=gpus runs one story.
e2e: build ## Run the whole thing on a cluster of its own: chart, pods, searches (Linux, root; 10 minutes), or on that of KUBECONFIG.
	[ -n "$$KUBECONFIG" ] || $(MAKE) --no-print-directory api-server node
	tests/cluster/images.sh
	target/debug/rerank-e2e $(E2E)

lint: deny ## Formatting, clippy and rustdoc without warnings, licences, bans and sources.
	! $(CARGO) tree --package rerank-server --edges normal --locked --prefix none | grep -E '^(kube|k8s-openapi)\b' # The server links no Kubernetes code.
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked

deny: $(DENY)
	$(DENY) --workspace --all-features check licenses bans sources

advisories: $(DENY) ## Look for known vulnerabilities; fails where the advisory database cannot be reached.
	$(DENY) --workspace --all-features check advisories

# Unoptimised on purpose: it is compiled in a third of the time and runs for seconds.
$(DENY):
	$(CARGO) install cargo-deny --version $(DENY_VERSION) --locked --debug --root target/tools

bench: build ## Print where the time of a search goes, and the server's own share of it.
	target/debug/rerank-bench

# A field tool: it makes the load, counts and reports. Optimised, so that it is not what is measured.
$(OHA):
	$(CARGO) install oha --version $(OHA_VERSION) --locked --root target/tools

bench-peers: build ## Compare our engines with those of PyPI on random weights of the 0.6B shape (hours; LAYERS=2 for a quick run, SETS=long10 for one set; 25 GB below target).
	target/debug/rerank-bench-peers $(LAYERS) $(SETS)

bench-int8: build ## Look what rounding to 8 bits does to scores, in several ways, on random weights (LAYERS=4: a minute; all of them: ten).
	target/debug/rerank-bench-peers quality $(LAYERS)

bench-growth: build ## Look whether the time of our engine grows linearly with a request (LAYERS=4: two minutes; all of them: twenty).
	target/debug/rerank-bench-peers growth $(LAYERS)

bench-products: ## Compare our products of matrices with those of the kept crates and of OpenBLAS, on the shapes of a model (compiled for themselves, 5 minutes).
	MATMUL_NUM_THREADS=$$(nproc) $(CARGO) run --release --locked --manifest-path packed/compare/Cargo.toml --target-dir target/compare
	[ -x target/compare/python/bin/python3 ] || python3 -m venv target/compare/python
	target/compare/python/bin/python3 -m pip install --quiet --disable-pip-version-check numpy==2.4.6
	OPENBLAS_NUM_THREADS=$$(nproc) target/compare/python/bin/python3 packed/compare/blas.py

load: build $(OHA) ## Load the server up to four times what it can do, and check the bounds (5 minutes, two cores).
	target/debug/rerank-load $(OHA)

memory: build ## Measure what six loads of random models take and give back, against what is predicted (10 minutes; writes 2 GB below target).
	target/debug/rerank-memory

cycles: build ## Load and unload the tiny pair 1,000 times; nothing may grow (10 minutes).
	target/debug/rerank-cycles

timing: build ## Look whether the time of a refusal tells anything about the keys (dudect's method, seconds).
	target/debug/rerank-timing

bench-operator: build api-server ## Measure the operator with 1,000 objects on the API server of the tests (some minutes, two cores).
	$(CARGO) build --release --locked --package rerank-operator
	target/debug/rerank-bench-operator

bench-pods: build api-server kwok ## The same with 100, 300 and 1,000 objects whose pods pretend to run, and a plot (15 minutes, two cores).
	$(CARGO) build --release --locked --package rerank-operator
	target/debug/rerank-bench-operator --pods 100 300 1000

fail-overs: build api-server ## Have operators end, die and pause 100 times while they write; no two may write at once (5 minutes).
	target/debug/rerank-fail-overs

peers: build ## Time other rerank servers from PyPI beside ours, on a random model (12 GB of packages below target, about 20 minutes).
	target/debug/rerank-peers

golden: build ## Make the reference scores and embeddings again (transformers and torch), then the generated pages.
	tests/models/golden.sh
	UPDATE_GOLDEN=1 $(CARGO) test --workspace --locked

models: ## Train the tiny pair again (torch; up to 30 minutes).
	tests/models/make.sh

images: ## Make the images of operator and server, below target/images (buildah or docker; optimised, so all is compiled again: half an hour).
	$(CARGO) build --release --workspace --locked
	images/build.sh

sbom: $(CYCLONEDX) ## List what the images hold, crates and system packages, as CycloneDX below target/sbom (after make images).
	CARGO=$(CARGO) images/sbom.py $(CYCLONEDX)

# Unoptimised on purpose, like cargo-deny.
$(CYCLONEDX):
	$(CARGO) install cargo-cyclonedx --version $(CYCLONEDX_VERSION) --locked --debug --root target/tools

cuda: ## Build the server for CUDA and its image, with a toolkit from PyPI (an hour of processor time, once; CUDA_COMPUTE_CAP=80).
	CARGO=$(CARGO) images/cuda/build.sh
	images/build.sh server-cuda
