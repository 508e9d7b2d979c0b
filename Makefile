# Everything needs Python 3.11 or newer and make, nothing else: the first command sets
# up .venv with the exact versions of constraints.txt. `make test JAX=newest` tests on the
# newest JAX, and what else pip takes with it, in .venv-newest; JAX 0.12 needs Python 3.12.
# `make test JAX=0.11` does so with the newest 0.11, in .venv-0.11. CI runs `make test-core`
# there.

PYTHON ?= python3
BIN := .venv/bin
JAX ?= pinned
TESTS ?= tests
VARIANT ?= 002
SEEDS ?= 3
FIRST_EPOCHS ?= 200
OUT ?= runs

ifdef DATA_DIR
export TFDS_DATA_DIR := $(DATA_DIR)
endif

.DEFAULT_GOAL := help
.PHONY: help run forecast imdb next-word adding-problem vanishing-gradient state-tracking selective-copying encoder-decoder reproduce keras native bench bench-full latency accelerator survival random-layers test test-core test-slow onnx gpu-compiler lint docs check format clean

help:                             ## lists these
	@sed -n 's/^\([a-z][a-z-]*\):[^#]*## /make \1\t/p' Makefile | expand -t 26

run: .venv/experiments            ## the main job: four sentences and the noisy sine
	$(BIN)/python experiments/sentences.py --seeds $(SEEDS) --out $(OUT)
	$(BIN)/python experiments/sine.py --seeds $(SEEDS) --out $(OUT)
	@echo; echo "The series and its forecast: $(OUT)/sine.png"

forecast: .venv/experiments       ## a day of demand, hour by hour, beside a linear model
	$(BIN)/python experiments/forecast.py --seeds $(SEEDS) --out $(OUT)

imdb: .venv/experiments           ## sentiment; VARIANT=001|002|004a|004b DATA_DIR=...
	$(BIN)/python experiments/imdb.py $(VARIANT) --seeds $(SEEDS) --out $(OUT)

next-word: .venv/experiments      ## which word comes next; DATA_DIR=...
	$(BIN)/python experiments/next_word.py --seeds $(SEEDS) --out $(OUT)

adding-problem: .venv/experiments ## how far back each cell remembers
	$(BIN)/python experiments/adding_problem.py --seeds $(SEEDS) --out $(OUT)

vanishing-gradient: .venv/experiments ## how far back each cell's gradient reaches, drawn
	$(BIN)/python experiments/vanishing_gradient.py --seeds $(SEEDS) --out $(OUT)

state-tracking: .venv/experiments ## which cells keep a state far beyond their training
	$(BIN)/python experiments/state_tracking.py --seeds $(SEEDS) --out $(OUT)

selective-copying: .venv/experiments ## which cells copy some tokens, leaving out the rest
	$(BIN)/python experiments/selective_copying.py --seeds $(SEEDS) --out $(OUT)

encoder-decoder: .venv/dev        ## numbers said in words: greedy, with beams, exported
	$(BIN)/python experiments/encoder_decoder.py --seeds $(SEEDS) --out $(OUT)

reproduce keras: SEEDS := 10

reproduce: .venv/dev              ## every tutorial, 20 minutes; rewrites results/ and tables
	$(BIN)/python experiments/reproduce.py --seeds $(SEEDS) --first-epochs $(FIRST_EPOCHS)

keras: .venv/dev                  ## real Keras on every tutorial: the table's oracle column
	$(BIN)/python experiments/keras_tutorials.py --seeds $(SEEDS) --first-epochs $(FIRST_EPOCHS)

native: .venv/experiments         ## compiles the loops for this CPU (needs g++ or clang++)
	$(BIN)/python -m jaxrnn.native

survival: .venv/dev               ## runs killed at 54 random moments: the same bits?
	$(BIN)/python tests/survival.py 18 --record experiments/results/survival.jsonl

random-layers: .venv/dev          ## 3,000 layers of any options against loops of NumPy: 1 hour
	PYTHONPATH=tests $(BIN)/python tests/random_layers.py 3000

bench: .venv/dev                  ## 5 minutes: peers that are installed, solver by solver
	$(BIN)/python experiments/benchmarks/peers.py --quick --out $(OUT)
	$(BIN)/python experiments/benchmarks/speed.py --quick --out $(OUT)

bench-full: .venv/dev             ## all of it; rewrites results/ and the tables
	$(BIN)/python experiments/benchmarks/peers.py
	$(BIN)/python experiments/benchmarks/speed.py
	$(BIN)/python experiments/benchmarks/parallel.py
	$(BIN)/python experiments/benchmarks/host.py
	$(BIN)/python experiments/benchmarks/startup.py
	$(BIN)/python experiments/benchmarks/checkpoints.py
	$(BIN)/python experiments/reproduce.py --only-tables

latency: .venv/dev .venv/onnx     ## one step at batch 1 beside Flax, ONNX Runtime, PyTorch
	PYTHONPATH=.venv/onnx $(BIN)/python experiments/benchmarks/latency.py --out $(OUT)

accelerator: .venv/dev            ## 8 minutes on a GPU: how exact, how fast; results/accelerators
	$(BIN)/python experiments/benchmarks/accelerator.py

# What is tested on other versions of JAX and Python too: JAX changes under these.
CORE := recurrence default noise linen nnx layers flax_rnn docstrings fused export \
  linear_cells

TEST_VENV := .venv$(if $(filter-out pinned,$(JAX)),-$(JAX))
ifeq ($(filter $(JAX),pinned newest 0.11 0.12),)
  $(error JAX is pinned, newest, 0.11 or 0.12, got $(JAX))
endif

test: $(TEST_VENV)/dev            ## TESTS=tests/data JAX=newest; TFDS_DATA_DIR adds reviews
	$(TEST_VENV)/bin/python -m pytest -n auto --maxprocesses 4 -m "not slow" $(TESTS)

test-core: TESTS := $(CORE:%=tests/test_%.py)
test-core: test                   ## cells, solvers, layers, export, on JAX=newest or JAX=0.11

test-slow: $(TEST_VENV)/dev       ## processes that are killed, sanitizers, thousands of cases
	$(TEST_VENV)/bin/python -m pytest -n auto --maxprocesses 4 -m slow $(TESTS)

onnx: $(TEST_VENV)/onnx           ## jax2onnx and ONNX Runtime: their test then runs

gpu-compiler: $(TEST_VENV)/gpu-compiler ## XLA for an H100, on a CPU: its tests then run

lint: .venv/dev                   ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

docs: .venv/docs                  ## the site, in site/: without a warning, a dead link, a network
	rm -rf site
	JAXRNN_NATIVE=0 $(BIN)/python -m sphinx -W --keep-going -q -d site/.doctrees docs site
	rm -rf site/.doctrees
	$(BIN)/python docs/_ext/built_site.py site

check: lint test test-slow docs

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-* runs site

.venv/peers: .venv/dev experiments/benchmarks/install_peers.py ## PyTorch, Keras, ...: never CUDA
	$(BIN)/python experiments/benchmarks/install_peers.py
	touch $@

# XLA for CUDA, of the very version of JAX, NVRTC and ptxas, without what they need: all
# that compiles for a GPU on a CPU (0.7 GB). Beside the environment: a Python that found
# them in it would look for a GPU. NVRTC 13.0 writes what every driver of CUDA 13 reads.
%/gpu-compiler: %/dev
	rm -rf $@
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  --target $@ $$($(@D)/bin/python -c 'import jax; v = jax.__version__; \
	  print(f"jax-cuda13-plugin=={v} jax-cuda13-pjrt=={v} nvidia-cuda-nvrtc==13.0.88"); \
	  print("nvidia-cuda-nvcc==13.0.88")')
	touch $@

# Beside the environment: pip would take an older orbax for jax2onnx, and twenty packages
# that translating has no use for (0.2 GB as it is).
%/onnx: %/dev
	rm -rf $@
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  --target $@ jax2onnx==0.17.1 onnx==1.23.2 onnx-ir==1.1.0 onnxruntime==1.32.0 \
	  sympy==1.14.0 mpmath==1.4.1
	touch $@

.venv/experiments .venv/docs .venv/dev: NEEDS := 11
.venv/experiments .venv/docs .venv/dev: VERSIONS := --constraint constraints.txt
.venv-newest/dev: NEEDS := 12
.venv-newest/dev: VERSIONS := --upgrade --upgrade-strategy eager
.venv-0.%/dev: NEEDS := 11
.venv-0.%/dev: VERSIONS = --upgrade "jax==$(@D:.venv-%=%).*" "jaxlib==$(@D:.venv-%=%).*"
$(addprefix .venv,/experiments /docs /dev -newest/dev -0.11/dev -0.12/dev): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, $(NEEDS)) or sys.exit( \
	  "$(@D) needs Python 3.$(NEEDS) or newer, found " + sys.version.split()[0] + \
	  "; name another one: make PYTHON=python3.$(NEEDS) ...")'
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check \
	  $(VERSIONS) --editable ".[$(@F)]"
	touch $@
