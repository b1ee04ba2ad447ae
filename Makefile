# `make demo`: from nothing to a report page. `make test`: every test. Each sets up .venv first. `make help` lists the rest.

PYTHON ?= python3
VENV ?= .venv
# More words for pip; --extra-index-url https://download.pytorch.org/whl/cpu gets the much smaller torch without CUDA.
PIP_FLAGS ?=

# The demo. SCALE: smoke (does every part run?), quick (a quarter of an hour on two cores), long (an hour or two).
SCALE ?= quick
DATA ?= moving_shapes
ROOT ?=
DEVICE ?= auto
# The judge's network: shapes comes with the repository; i3d, for FVD proper, needs published weights.
FEATURES ?= shapes
# Guidance scales to judge, the first is the headline.
GUIDANCE ?= 1,2
# The soak.
MINUTES ?= 20
SEED ?= 0

# Presets of the tokenizer: demo for synthetic clips of 32 pixels, small for real ones at 64. Of real videos, which are
# few, several windows are encoded.
REAL := $(filter-out moving_shapes%,$(DATA))
PRESET ?= $(if $(REAL),small,demo)
WINDOWS ?= $(if $(REAL),4,1)

#                     optimizer updates (none: as many as the preset says) | clips | generated clips to judge, Euler steps, checkpoints on the curve
SCALE_smoke := TOKENIZER_STEPS=12    GENERATOR_STEPS=12    CLIPS=48    SAMPLES=24   CURVE_SAMPLES=24  EULER=4   CURVE=2
SCALE_quick := TOKENIZER_STEPS=      GENERATOR_STEPS=$(if $(REAL),600,1000)  CLIPS=8000  SAMPLES=256  CURVE_SAMPLES=128 EULER=32  CURVE=4
SCALE_long  := TOKENIZER_STEPS=12000 GENERATOR_STEPS=8000  CLIPS=20000 SAMPLES=2048 CURVE_SAMPLES=512 EULER=100 CURVE=8

SETTINGS := $(SCALE_$(SCALE))
$(if $(SETTINGS),,$(error SCALE=$(SCALE) is not known; use smoke, quick or long))
setting = $(patsubst $(1)=%,%,$(filter $(1)=%,$(SETTINGS)))
TOKENIZER_STEPS ?= $(call setting,TOKENIZER_STEPS)
GENERATOR_STEPS ?= $(call setting,GENERATOR_STEPS)
CLIPS ?= $(call setting,CLIPS)
SAMPLES ?= $(call setting,SAMPLES)
CURVE_SAMPLES ?= $(call setting,CURVE_SAMPLES)
EULER ?= $(call setting,EULER)
CURVE ?= $(call setting,CURVE)

RUNS := runs
NAME := demo-$(DATA)-$(SCALE)
TOKENIZER := $(RUNS)/$(NAME)-tokenizer
GENERATOR := $(RUNS)/$(NAME)-generator
LATENTS := $(TOKENIZER)/latents.h5
REPORT := $(RUNS)/$(NAME).html

RUN := $(VENV)/bin/python
COMMON := --runs-dir $(RUNS) --device $(DEVICE)
STAMP := $(VENV)/.installed

.PHONY: help install demo test lint bench soak clean
.DELETE_ON_ERROR:

help:
	@echo "make demo [SCALE=smoke|quick|long] [DATA=ucf101 ROOT=folder]   train, sample, evaluate, write a report page"
	@echo "make test    run every test"
	@echo "make lint    style, and which package may import which"
	@echo "make bench [SMOKE=1]   speed of every stage on this machine; SMOKE=1: does every stage run?"
	@echo "make soak MINUTES=20   kill every stage at random moments, and compare what it ends with"
	@echo "make clean   remove $(VENV), caches and build folders; $(RUNS)/ stays"
	@echo "PYTHON=python3.12 chooses the interpreter, which must be 3.11 or newer."

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is not Python 3.11 or newer; name one that is: make PYTHON=python3.12 ..." >&2; exit 2; }
	test -x $(VENV)/bin/pip || $(PYTHON) -m venv --clear $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[dev]'
	@touch $@

# Every line resumes, or finds its work done, when `make demo` is called again.
demo: $(STAMP)
	$(RUN) -m tokenizer.train --preset $(PRESET) --data $(DATA) $(if $(ROOT),--root "$(ROOT)") $(if $(TOKENIZER_STEPS),--steps $(TOKENIZER_STEPS)) --name $(NAME)-tokenizer $(COMMON)
	$(RUN) -m tokenizer.encode --tokenizer $(TOKENIZER) --max-clips $(CLIPS) --windows $(WINDOWS) --out $(LATENTS) $(COMMON)
	$(RUN) -m generator.train --latents $(LATENTS) --preset demo --steps $(GENERATOR_STEPS) --keep-every $$(($(GENERATOR_STEPS) / $(CURVE))) --name $(NAME)-generator $(COMMON)
	$(RUN) -m generator.sample --run $(GENERATOR) --samples $(SAMPLES) --steps $(EULER) $(COMMON)
	$(RUN) -m eval.reconstruction --tokenizer $(TOKENIZER) --samples $(SAMPLES) $(COMMON)
	$(RUN) -m eval.fvd --run $(GENERATOR) --samples $(SAMPLES) --steps $(EULER) --guidance-scales $(GUIDANCE) --features $(FEATURES) $(COMMON)
	$(RUN) -m eval.convergence --runs $(GENERATOR) --samples $(CURVE_SAMPLES) --steps $(EULER) --features $(FEATURES) $(COMMON)
	$(RUN) -m eval.report --run $(GENERATOR) --steps $(EULER) --out $(REPORT) $(COMMON)

test: $(STAMP)
	$(RUN) -m pytest

lint: $(STAMP)
	$(RUN) -m ruff check .
	$(VENV)/bin/lint-imports

bench: $(STAMP)
	$(RUN) -m benchmarks.stages $(COMMON) $(if $(SMOKE),--smoke)

# Kills, full disks and mutated files for as long as told; everything must end as if nothing had happened.
soak: $(STAMP)
	$(RUN) tests/survival/soak.py --minutes $(MINUTES) --seed $(SEED) --out benchmarks/results/soak.json

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
