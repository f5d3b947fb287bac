# make demo   keypoints on a photograph, decoded from real heatmaps
# make test   all tests (those marked gpu skip without one)
# make test-integrations   the integrations against the packages that they stand in for, in an environment of its own
# make test-oldest   the contract with PyTorch and some kernels with the oldest PyTorch, Triton and NumPy, in an environment of its own (6 GB)
# make lint   formatting, lint and types
# make compile-report   every kernel for every target: registers, spills, load widths; with older Tritons the kernels
#                       whose registers are limited; needs no GPU. TARGETS=sm_80,sm_90 for some targets alone
# make machine-code   the tests of kernels, compiled for sm_90 and run as machine code by an emulator: an hour
# make machine-code-sample   one of so many of them; both need gcc and say so
# make bench  CPU benchmarks
# make gpu    all that needs a GPU, for MINUTES, with the python on the PATH and nothing installed; again to go on

PYTHON ?= python3
VENV   ?= .venv
VENV_INTEGRATIONS ?= .venv-integrations
VENV_OLDEST ?= .venv-oldest
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PIP_INTEGRATIONS := $(VENV_INTEGRATIONS)/bin/python -m pip install --quiet --disable-pip-version-check
# Tritons that the limits of registers are for as well, besides the installed one: the oldest, and PyTorch 2.11's.
OLDER_TRITONS := $(shell sed -n 's/^triton==//p' requirements/oldest.txt) 3.6.0
OLDER_TARGETS ?= sm_80,sm_90
OLDER_REPORTS := $(OLDER_TRITONS:%=compile-report-%)
# Where `make gpu` and `make bench` leave their results.
OUT    ?= benchmarks/results
# How long `make gpu` begins anything.
MINUTES ?= 60

# What both type checkers have to pass, as users run them: the code of README.md, and calls with their types.
TYPED := build/typed/readme.py tests/types_of_calls.py

# Of the tests that run kernels, one in so many is a sample.
ONE_IN ?= 40

.PHONY: demo test test-integrations test-oldest lint compile-report $(OLDER_REPORTS) machine-code machine-code-sample bench gpu clean

demo: $(VENV)/.cli
	$(BIN)/dark-kernels demo

# One thread for each of the two workers: the tests are many small operations.
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -n 2 --dist worksteal

# Where they are asked for, a package that is missing is an error: elsewhere its tests are skipped.
test-integrations: $(VENV_INTEGRATIONS)/.done
	OMP_NUM_THREADS=1 DARK_KERNELS_REQUIRE_INTEGRATIONS=1 $(VENV_INTEGRATIONS)/bin/python -m pytest tests/integrations

# The contract with PyTorch, eager's plans, interpreted kernels, and the compiler.
test-oldest: $(VENV_OLDEST)/.done
	OMP_NUM_THREADS=1 $(VENV_OLDEST)/bin/python -m pytest -n 2 --dist worksteal -m "not slow" \
		tests/test_interpreter.py tests/test_contract.py tests/decode/test_eager.py tests/decode/test_kernels.py
	$(VENV_OLDEST)/bin/python -m benchmarks.compile_report --targets sm_90 -k "oks"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tests.typed_pages build/typed
	$(BIN)/mypy --config-file= --strict --allow-redefinition --follow-imports silent --cache-dir .mypy_cache/strict $(TYPED)
	$(BIN)/basedpyright --pythonpath $(BIN)/python $(TYPED)

compile-report: $(VENV)/.dev $(OLDER_REPORTS)
	$(BIN)/python -m benchmarks.compile_report $(if $(TARGETS),--targets $(TARGETS))

$(OLDER_REPORTS): compile-report-%: $(VENV)/.dev .triton-%/.done
	PYTHONPATH=.triton-$* $(BIN)/python -m benchmarks.compile_report --limited --targets $(OLDER_TARGETS)

machine-code machine-code-sample: $(VENV)/.dev
	DARK_KERNELS_MACHINE_CODE=$(if $(findstring sample,$@),$(ONE_IN),1) OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest tests -n 2 --dist worksteal -m "not slow" --timeout 600

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.run --device cpu --output $(OUT)

gpu:
	$(PYTHON) -m benchmarks.gpu_day --minutes $(MINUTES) --output $(OUT)

$(VENV)/.cli: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[cli]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[dev]'
	touch $@ $(VENV)/.cli

$(VENV_INTEGRATIONS)/.done: pyproject.toml constraints.txt requirements/integrations.txt requirements/integrations-no-deps.txt
	test -x $(VENV_INTEGRATIONS)/bin/python || $(PYTHON) -m venv $(VENV_INTEGRATIONS)
	$(PIP_INTEGRATIONS) --constraint constraints.txt --requirement requirements/integrations.txt --editable '.[test]'
	$(PIP_INTEGRATIONS) --no-deps --no-build-isolation --requirement requirements/integrations-no-deps.txt
	touch $@

$(VENV_OLDEST)/.done: pyproject.toml requirements/oldest.txt
	test -x $(VENV_OLDEST)/bin/python || $(PYTHON) -m venv $(VENV_OLDEST)
	$(VENV_OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint requirements/oldest.txt --editable '.[test]'
	touch $@

.triton-%/.done: | $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(@D) triton==$*
	touch $@

clean:
	rm -rf $(VENV) $(VENV_INTEGRATIONS) $(VENV_OLDEST) .triton-* .pytest_cache .mypy_cache .ruff_cache .benchmarks build dist
