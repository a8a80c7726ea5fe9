# Everything a user or a maintainer types. Each target makes what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What the compiled and the pure relay both have to pass; the rest does not know the difference.
RELAY_TESTS := tests/integration tests/tunnels tests/protocol
# Files of tests are run several at once, as they wait for time-outs about as much as they compute.
JOBS ?= 2
FUZZ_SECONDS ?= 300
PYTEST = $(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

.PHONY: run install dev check format test test-compiled test-pure test-peers soak fuzz bench clean

run: install  ## the gateway with an echo backend; says what to open and type next
	$(BIN)/gateway demo

install: $(BIN)/.installed
$(BIN)/.installed: pyproject.toml setup.py $(shell find gateway -name '*.py[xd]') $(patsubst %.pxd,%.py,$(shell find gateway -name '*.pxd' ! -name kernel.pxd))
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools wheel "Cython>=3.1"
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable .
	@$(BIN)/python -c "from gateway.build import relay_build as b; print('upgrade-gateway is installed; the relay runs', {'compiled': 'compiled', 'pure': 'uncompiled: no working C compiler was found'}[b()])"
	@touch $@

dev: $(BIN)/.dev
$(BIN)/.dev: $(BIN)/.installed
	$(BIN)/python -m pip install --quiet --group dev
	@touch $@

check: dev  ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: dev $(BIN)/.rewritten  ## all tests that need nothing but the venv
	$(MAKE) --no-print-directory -j2 --output-sync=target test-compiled test-pure

# Asserts are rewritten once, not in each process.
$(BIN)/.rewritten: $(BIN)/.dev $(shell find tests -name '*.py')
	@$(BIN)/pytest --collect-only $(RELAY_TESTS) > /dev/null & \
	$(BIN)/pytest --collect-only tests --ignore tests/peers $(RELAY_TESTS:%=--ignore %) > /dev/null; wait
	@touch $@

# Gateways start by the hundred: their bytecode is to be kept, whatever the environment says.
test test-compiled test-pure: export PYTHONDONTWRITEBYTECODE :=
# It has three times as many tests, most of which wait more than they compute.
test-compiled: JOBS := $(shell expr $(JOBS) + 3)
test-compiled: dev
	$(PYTEST) tests --ignore tests/peers
test-pure: dev
	GATEWAY_RELAY=pure $(PYTEST) $(RELAY_TESTS) -m "not either_build"

test-peers: dev  ## against real nginx, HAProxy, wrk, Prometheus, Chromium, RabbitMQ, node, OpenSSL, GnuTLS, Java; installs what is missing
	bash tests/peers/install.sh
	$(BIN)/pytest tests/peers tests/docs tests/packaging/test_deploy.py tests/packaging/test_systemd.py  # nginx, promtool … look, too

soak: dev  ## the long versions: a minute of flood, 1 GiB uploads, 1,000 busy tunnels; properties with many more examples
	GATEWAY_SOAK=1 $(BIN)/pytest tests/integration -m soak
	GATEWAY_SOAK=1 $(BIN)/pytest tests --ignore tests/peers -m hypothesis
	GATEWAY_SOAK=1 $(BIN)/pytest tests/edge/orders tests/packaging/test_wheel.py tests/tunnels

fuzz: dev  ## the TLS record layer, then PROXY headers, guided by coverage, each for FUZZ_SECONDS
	$(BIN)/python -m pip install --quiet atheris
	GATEWAY_RELAY=pure $(BIN)/python -m tests.fuzz.records -max_total_time=$(FUZZ_SECONDS) -max_len=300
	$(BIN)/python -m tests.fuzz.proxy -max_total_time=$(FUZZ_SECONDS) -max_len=300

bench: dev  ## side by side with nginx, HAProxy, Envoy and Caddy, as far as they are installed
	$(BIN)/python -m bench

clean:
	rm -rf $(VENV) build dist *.egg-info bench/bin tests/peers/node_modules
	find gateway -name '*.so' -delete -o -name '*.c' -delete
