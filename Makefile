# Two commands from a bare machine: `make run` and `make test`.

# Python's compiled files are kept, whatever an image says: the tests start some hundred processes.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
BIN := .venv/bin
MIGRATIONS := $(filter-out %.rollback.sql,$(wildcard migrations/*.sql))
LOCK := uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate

# Where the usual stack's servers are, for `make bench` to compare with; where they are not, it does without.
VERBATIM_BENCH_BASELINE ?= ../shared/bench
BASELINE := $(if $(wildcard $(VERBATIM_BENCH_BASELINE)/servers),.venv-bench/installed)

# The PostgreSQL of `make test`: 18, or Debian's 15.
PG ?= 18
# On two cores, each with a server of its own; who is done takes half of what the other has left.
PARALLEL := -n 2 --dist worksteal

.PHONY: run test test-all test-faults bench bench-growth check audit format lock shots clean

run: .venv/local
	@exec $(BIN)/verbatim serve --local

test: .venv/dev .venv/node
	$(BIN)/pytest $(PARALLEL) --pg=$(PG)

# Everything: on the newest and the oldest PostgreSQL, through a pooler, and what takes minutes.
test-all: .venv/dev .venv/node
	$(BIN)/pytest $(PARALLEL) --pg=18
	$(BIN)/pytest $(PARALLEL) --pg=15
	$(BIN)/pytest $(PARALLEL) --pgbouncer
	SCHEMATHESIS_CASES=5000 $(BIN)/pytest -m faults

# What takes minutes: servers killed, answers cut, disks filled, migrations at war. One after the other: they take times.
test-faults: .venv/dev
	$(BIN)/pytest -m faults

# How fast it is, beside what the database allows; some of it with BENCH="--only append --rounds 3", see --help.
# The data lie in /var/tmp: a temporary directory may be one of memory, which no fsync would slow.
bench: .venv/dev $(BASELINE)
	@TMPDIR=/var/tmp VERBATIM_BENCH_BASELINE=$(VERBATIM_BENCH_BASELINE) $(BIN)/python -m tests.bench $(BENCH)

# What ten times as many messages cost.
bench-growth: .venv/dev
	@TMPDIR=/var/tmp $(BIN)/python -m tests.bench.growth $(BENCH)

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/sqlfluff lint --disable-progress-bar sql migrations
	$(BIN)/squawk --config .squawk.toml $(MIGRATIONS)
	$(BIN)/lint-imports --no-logo

# Known holes of what the service depends on; it asks the package index.
audit: .venv/dev
	$(BIN)/pip-audit --strict --progress-spinner off --disable-pip --require-hashes -r requirements-local.lock

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/sqlfluff fix --disable-progress-bar sql migrations

# Writes what is locked to hashes: for the service, to run it locally, to develop it, for the usual stack, and for npm.
lock: .venv/dev
	$(BIN)/$(LOCK) pyproject.toml -o requirements.lock
	$(BIN)/$(LOCK) pyproject.toml --extra local -c requirements.lock -o requirements-local.lock
	$(BIN)/$(LOCK) pyproject.toml --extra local --group dev -c requirements-local.lock -o requirements-dev.lock
	$(BIN)/$(LOCK) tests/bench/baseline.in -c requirements.lock -o tests/bench/baseline.lock
	cd tests/node && ../../$(BIN)/npm install --package-lock-only

# The README's pictures of the console, by the tests' browser.
shots: .venv/dev
	$(BIN)/python -m tests.shots

.venv/local: requirements-local.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-local.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.venv/dev: requirements-dev.lock .venv/local
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

.venv-bench/installed: tests/bench/baseline.lock
	@test -x .venv-bench/bin/python || $(PYTHON) -m venv .venv-bench
	@.venv-bench/bin/pip install --quiet --disable-pip-version-check --require-hashes -r tests/bench/baseline.lock
	@touch $@

# The clients for Node that the tests run. Without them the tests say so, loudly; where CI is set they fail.
.venv/node: tests/node/package-lock.json .venv/dev
	@cd tests/node && ../../$(BIN)/npm ci --no-progress --loglevel=error && touch ../../$@ || echo "NO NPM PACKAGES" >&2

clean:
	rm -rf .venv .venv-bench tests/node/node_modules .mypy_cache .pytest_cache .ruff_cache .hypothesis
