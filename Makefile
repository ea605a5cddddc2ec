# SPDX-License-Identifier: Apache-2.0
# `make demo` and `make test` each work as the first and only command on a machine with python3, g++ and git.
#
#   TORCH=2.13.0     install this torch into .venv (the default where python3 has none of its own)
#   TORCH=existing   use the torch that $(PYTHON) already has (the default where it has one)
#   ARGS="..."       more arguments for the command behind demo, test, bench, verify
PYTHON ?= python3
PINNED := 2.13.0
TORCH ?= $(shell $(PYTHON) -c "from importlib.metadata import version as v; print('existing' if \
  tuple(map(int, v('torch').split('.')[:2])) >= (2, 11) else '$(PINNED)')" 2>/dev/null || echo $(PINNED))

VENV := .venv$(if $(filter $(PINNED),$(TORCH)),,-$(TORCH))
RUN := $(VENV)/bin/python
TOOLS := "setuptools>=77" wheel ninja "pytest>=8" "pytest-benchmark>=4" "hypothesis>=6.100" "numpy>=1.26" \
  "matplotlib>=3.8"
SOURCES := $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' -o -name '*.py')
# The extension lies in the source tree and belongs to one torch, so there is one stamp at a time.
BUILT := build/.built$(subst /,-,$(VENV))

.PHONY: demo test soak bench verify build lint clean check-cuda check-gpu bench-gpu
.DELETE_ON_ERROR:

demo: $(BUILT)
	$(RUN) -m fusedsched demo $(ARGS)

# The quick tier; ARGS="-m full" runs the rest (tests/tiers.py).
test: $(BUILT)
	$(RUN) -m pytest $(ARGS)

# The laws about the compiled CUDA kernels, for all processors; `make test` compiles for one of them.
check-cuda: $(BUILT)
	FUSEDSCHED_CHECK_ARCHS="$$(sed -n 's/^ARCHS = "\(.*\)".*/\1/p' csrc/cuda/toolchain.py)" \
	  $(RUN) -m pytest tests/test_cuda_report.py -rs $(ARGS)

# The random programs, the fuzzers and the sanitizers at length (docs/reliability.md); ARGS="--share 0.01" runs less.
soak: $(BUILT)
	$(RUN) tests/soak.py $(ARGS)

bench: $(BUILT)
	$(RUN) benchmarks/bench.py $(ARGS)

# These two use $(PYTHON) and its own torch as they are: no virtual environment, nothing from the network. Without a GPU
# they say so and exit with 0.
BUILD_HERE = TORCH_CUDA_ARCH_LIST="$${TORCH_CUDA_ARCH_LIST:-native}" $(PYTHON) setup.py -q build_ext --inplace
check-gpu bench-gpu: export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))

# Checks on a GPU in three stages of a few minutes (tests/gpu/stages.py): what is new, everything, times.
STAGE ?= 1
DIR ?= build/gpu
check-gpu:
	@if $(PYTHON) benchmarks/gpu_here.py $@; then \
	  TORCH_CUDA_ARCH_LIST="$${TORCH_CUDA_ARCH_LIST:-native}" $(PYTHON) tests/gpu/stages.py $(STAGE) $(DIR) $(ARGS); \
	fi

bench-gpu:
	@if $(PYTHON) benchmarks/gpu_here.py $@; then \
	  $(BUILD_HERE) && \
	  file=benchmarks/results/$$($(PYTHON) -c "from benchmarks.machine import gpu_file; print(gpu_file())") && \
	  $(PYTHON) -m fusedsched bench --backend cuda --json "$$file" $(ARGS) && echo && echo "written to $$file"; \
	fi

verify: $(BUILT)
	$(RUN) -m fusedsched verify $(ARGS)

build: $(BUILT)

lint:
	@command -v ruff >/dev/null || { echo "ruff is not installed; nothing checked"; exit 0; }; \
	  ruff check . && ruff format --check .

clean:
	rm -rf build dist .venv* *.egg-info fusedsched/*.so fusedsched/_build_info.json

$(VENV)/.installed: Makefile
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10))" || { echo "python 3.10 or newer is needed"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) cannot make a virtual environment (Debian: apt install python3-venv)"; exit 1; }
ifeq ($(TORCH),existing)
	@# A venv does not see the packages of another venv, so the folder of the existing torch is named by a .pth file.
	$(PYTHON) -c "import torch, pathlib; p = str(pathlib.Path(torch.__file__).parents[1]); print(f'import site; site.addsitedir({p!r})')" \
	  > "$$($(RUN) -c "import sysconfig; print(sysconfig.get_path('purelib'))")/existing_torch.pth"
	$(RUN) -m pip install -q $(TOOLS)
else
	$(RUN) -m pip install -q $(TOOLS) torch==$(TORCH)
	$(if $(filter $(PINNED),$(TORCH)),$(RUN) -m pip install -q triton==3.7.1)
endif
	touch $@

$(BUILT): $(VENV)/.installed setup.py pyproject.toml $(SOURCES)
	$(RUN) -m pip install -q --no-build-isolation --no-deps -e .
	@mkdir -p build && rm -f build/.built* && touch $@
