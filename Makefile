# Both targets make their own environment, under build/, from nothing but Python and a compiler.
PYTHON ?= python3
VENV := build/venv
BIN := $(VENV)/bin
DATA ?= synthetic
RUN ?= build/runs/$(notdir $(abspath $(DATA)))
BUDGETS ?= 10%,5%,2.5%,1%
SOURCES := CMakeLists.txt pyproject.toml $(shell find csrc peel_ext -type f -not -name '*.pyc')

.PHONY: demo test ctest lint wheel bench clean

demo: build/.installed
	$(BIN)/peel train $(DATA) --out $(RUN)
	$(BIN)/peel evaluate $(RUN) --budgets $(BUDGETS)
	@echo
	@echo "Recommendations for somebody who knows the first three items, from 1 percent of the bytes:"
	$(BIN)/peel recommend $(RUN) -n 5 --budget 1% --history $$($(BIN)/python -c \
	  "import json; print(*json.load(open('$(RUN)/items.json'))[:3], sep=',')")

test: build/.installed ctest
	$(BIN)/pytest

# The native core alone, under the address and undefined-behaviour sanitizers.
ctest: build/.environment
	$(BIN)/cmake -S . -B build/ctest -DPEEL_BUILD_TESTS=ON -DPEEL_WERROR=ON \
	  -DPEEL_SANITIZE=address,undefined
	$(BIN)/cmake --build build/ctest --parallel 2
	cd build/ctest && ../venv/bin/ctest --output-on-failure

lint: build/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/clang-format --dry-run --Werror $$(find csrc -name '*.h' -o -name '*.cpp')
	$(BIN)/python .ci/check_symbols.py build/ctest/libpeel_core.a
	$(BIN)/python .ci/check_stubs.py

wheel: build/.environment
	rm -rf dist
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

# BENCH chooses and sizes (-k topk, --large); APPEND names a file under bench/results to add rows to.
# An OPENBLAS_CORETYPE meant for older builds would slow NumPy down.
bench: build/.installed
	env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE $(BIN)/pytest bench -q --benchmark-only \
	  --benchmark-quiet --benchmark-disable-gc --benchmark-max-time=0.5 \
	  --benchmark-json=build/kernels.json $(BENCH)
	$(BIN)/python bench/report.py build/kernels.json $(if $(APPEND),--append $(APPEND))

clean:
	rm -rf build dist

build/.environment: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -r requirements-dev.txt
	touch $@

build/.installed: build/.environment $(SOURCES)
	$(MAKE) wheel
	$(BIN)/pip install --quiet --force-reinstall --no-deps dist/*.whl
	$(BIN)/pip install --quiet -c constraints.txt "$$(ls dist/*.whl)[train,test,bench]"
	touch $@
