# Every target sets up what it needs: a virtual environment in .venv, then the package with its test extra.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint gpu-test bench bench-kernels clean

$(READY): setup.py pyproject.toml constraints.txt $(wildcard csrc/* */__init__.py */*/__init__.py)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch  # first: the C++ ops are built against it
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[test]'
	touch $(READY)

demo: $(READY)          ## the built-in model watches a clip; writes demo.html
	$(BIN)/evostreaming demo

test: $(READY) lint     ## everything that runs without a GPU
	$(BIN)/python -m pytest -m "not gpu"

lint: $(READY)
	$(BIN)/ruff check .

gpu-test:               ## on a machine with a GPU, in the Python that holds its torch
	$(PYTHON) -m pip install -q --no-deps --no-build-isolation -e .
	$(PYTHON) -m pytest -m gpu --ignore-glob='tests/engine/test_video*' tests/kernels tests/engine tests/backbones

bench:                  ## on a machine with a GPU; the step beside its floor and its peers, in bench/
	$(PYTHON) -m pip install -q --no-deps --no-build-isolation -e .
	$(PYTHON) -m evostreaming bench --random qwen2.5-vl-7b --context 8192,4096 --streams 1,8 --tokens-per-frame 256,128 --peers

bench-kernels:          ## on a machine with a GPU; every op beside its floor and its peers
	$(PYTHON) -m pip install -q --no-deps --no-build-isolation -e .
	for op in append append_attention decode_attention gate preprocess norm swiglu rotate vision_attention gemm gated_gemm tower; do \
	  $(PYTHON) -m benchmarks.bench_$$op --refcheck || exit 1; done

clean:
	rm -rf $(VENV) build *.egg-info demo.html
