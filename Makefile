# What is made, environment included, goes under build/, from nothing but Python and a compiler.
PYTHON ?= python3
VENV := build/venv
BIN := $(VENV)/bin
DATA ?= synthetic
RUN ?= build/runs/$(notdir $(abspath $(DATA)))
BUDGETS ?= 10%,5%,2.5%,1%
SOURCES := CMakeLists.txt pyproject.toml $(shell find csrc peel_ext -type f -not -name '*.pyc')

# Tests run on every core, on four at most: each worker holds torch, half a gigabyte.
PYTEST := $(BIN)/pytest --numprocesses logical --maxprocesses 4 --dist worksteal
# What runs native code; marked `once` are tracing, and memory as the system counts it.
NATIVE_TESTS := python_tests/ops python_tests/device -m 'not once'
comma := ,

# The npm package: the core as WebAssembly and what wraps it. Node 20 or later, and this compiler.
ZIG := ziglang==0.17.1
NATIVE_SOURCES := $(shell find csrc -name '*.h' -o -name '*.cpp')

.PHONY: demo web web-test web-demo test ctest tsan fuzz aarch64 windows asan cuda_shim isas lint wheel wheels bench docs clean

demo: build/.package
	$(BIN)/peel train $(DATA) --out $(RUN)
	$(BIN)/peel evaluate $(RUN) --budgets $(BUDGETS) --rivals
	$(BIN)/peel export $(RUN) --out $(RUN)/devices --group 0
	@echo
	@echo "What a device recommends to somebody who knows the first three items, under three budgets:"
	@known=$$($(BIN)/python -c \
	  "import json; print(*json.load(open('$(RUN)/items.json'))[:3], sep=',')"); \
	$(BIN)/peel export $(RUN) --out $(RUN)/devices --history "$$known" --quiet > /dev/null || exit 1; \
	for budget in 10% 2.5% 1%; do \
	  $(BIN)/peel recommend $(RUN)/devices/user.peel -n 5 --budget $$budget --history "$$known" || exit 1; \
	done
	@$(BIN)/peel report $(RUN) --out $(RUN)/report.html > /dev/null
	@echo
	@echo "Something to look at: $(abspath $(RUN))/report.html"

web: build/.web

# Its tests; those of the page need a browser, and say so where there is none.
web-test: build/.web build/.installed
	PEEL_ISA=portable $(BIN)/python -P web/tests/answers.py build/web/answers.json
	$(BIN)/python -P web/tests/model.py build/web/random.peel build/web/large.peelb
	$(BIN)/python -P web/demo/prepare.py build/web/random.peel build/web/random
	cd web && PEEL_DEMO=$(CURDIR)/build/web/random npm test --silent

# A page over a model that `make demo` trained. TITLES is a tab-separated file of ids and titles.
PORT ?= 8000
web-demo: build/.web
	@test -f $(RUN)/devices/group-0.peel || { echo "there is no $(RUN)/devices/group-0.peel: \
	run 'make demo' first, with the same DATA or RUN" >&2; exit 1; }
	$(BIN)/python -P web/demo/prepare.py $(RUN)/devices/group-0.peel build/web/demo \
	  $(if $(TITLES),--titles $(TITLES))
	node web/demo/serve.mjs build/web/demo $(PORT)

# Installing keeps one core busy, and the native tests need none of it but the tools.
test: build/.tools
	$(MAKE) --jobs 2 --output-sync=target build/.installed ctest
	$(PYTEST)

# $(call run_ctest,FOLDER,OPTIONS,TESTS AT ONCE): the native core alone, built with some options, and its
# tests, two at once where nothing is said.
define run_ctest
	$(BIN)/cmake -S . -B build/$(1) -DPEEL_BUILD_TESTS=ON -DPEEL_WERROR=ON $(2)
	MAKEFLAGS= $(BIN)/cmake --build build/$(1) --parallel 2
	cd build/$(1) && ../venv/bin/ctest --output-on-failure --no-tests=error --parallel $(or $(3),2)
endef

# Under the address and undefined-behaviour sanitizers; the CUDA kernels, too, on the host.
ctest: build/.tools
	$(call run_ctest,ctest,-DPEEL_SANITIZE=address$(comma)undefined -DPEEL_CUDA_SHIM=ON)

# Under the thread sanitizer.
tsan: build/.tools
	$(call run_ctest,tsan,-DPEEL_SANITIZE=thread)

# For 64-bit ARM, under an emulator: needs g++-aarch64-linux-gnu and qemu-user.
aarch64: build/.tools
	$(call run_ctest,aarch64,-DCMAKE_TOOLCHAIN_FILE=cmake/aarch64-linux-gnu.cmake)
	NM=aarch64-linux-gnu-nm $(BIN)/python .ci/check_symbols.py build/aarch64

# For 64-bit Windows, under wine: needs wine64. The compiler builds its C++ library first, for minutes.
WINE ?= $(firstword $(wildcard /usr/bin/wine64 /usr/lib/wine/wine64))
windows: build/.tools
	@test -n "$(WINE)" || { echo "there is no wine64: install it, or name it by WINE=" >&2; exit 1; }
	$(BIN)/pip install --quiet --target build/zig/site $(ZIG)
	WINEDEBUG=-all WINEPREFIX=$(CURDIR)/build/wine $(MAKE) windows_tests
.PHONY: windows_tests
windows_tests:
	$(call run_ctest,windows,-DCMAKE_TOOLCHAIN_FILE=cmake/x86_64-windows-gnu.cmake \
	  -DPEEL_ZIG=$(CURDIR)/build/zig/site/ziglang/zig -DPEEL_WINE=$(WINE),1)

# The native module under the address and undefined-behaviour sanitizers, as Python calls it.
asan: build/.installed
	rm -rf build/asan build/asan_module
	$(BIN)/pip install --quiet --no-deps --target build/asan -Cbuild-dir=build/asan_module \
	  -Ccmake.define.PEEL_SANITIZE=address,undefined .
	PYTHONPATH=$(CURDIR)/build/asan PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 \
	  LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	  $(PYTEST) -p no:cacheprovider $(NATIVE_TESTS)

# The kernels for CUDA devices as Python launches them, run by a host shim: needs no GPU.
cuda_shim: build/.installed
	rm -rf build/cuda_shim build/cuda_shim_module
	$(BIN)/pip install --quiet --no-deps --target build/cuda_shim -Cbuild-dir=build/cuda_shim_module \
	  -Ccmake.define.PEEL_CUDA_SHIM=ON .
	PYTHONPATH=$(CURDIR)/build/cuda_shim PEEL_TEST_SHIM=1 \
	  $(PYTEST) -q -p no:cacheprovider python_tests/ops python_tests/nn/test_cuda.py \
	  -m 'not once and not slow' -k 'not instruction_set'

# The kernels on every instruction set of this machine but the best, which `make test` has run. It has
# run those tests, too, that go through all sets themselves.
isas: build/.installed
	isas=$$($(BIN)/python -P -c "from peel_ext import _core; print(*_core.isas()[1:])") || exit 1; \
	for isa in $$isas; do \
	  PEEL_ISA=$$isa $(PYTEST) -q $(NATIVE_TESTS) -k 'not instruction_set' || exit 1; \
	done

# Hostile files, made by libFuzzer, for some seconds a target: needs clang and its sanitizer runtime.
FUZZ_SECONDS ?= 20
fuzz: build/.tools
	CC=clang CXX=clang++ $(BIN)/cmake -S . -B build/fuzz -DPEEL_BUILD_FUZZERS=ON \
	  -DPEEL_SANITIZE=fuzzer-no-link,address,undefined
	$(BIN)/cmake --build build/fuzz --parallel 2
	for target in bundle open resize score; do \
	  mkdir -p build/fuzz/corpus-$$target; \
	  build/fuzz/fuzz_$$target -max_total_time=$(FUZZ_SECONDS) -max_len=8192 -malloc_limit_mb=64 \
	    -artifact_prefix=build/fuzz/ build/fuzz/corpus-$$target python_tests/format/golden || exit 1; \
	done

lint: build/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/clang-format --dry-run --Werror $$(find csrc bench -name '*.h' -o -name '*.cpp' -o -name '*.cu')
	$(BIN)/python .ci/check_symbols.py build/release
	$(BIN)/python .ci/check_stubs.py

wheel: build/.venv
	rm -rf dist
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

# The sdist, and from it a wheel for every Python, each tried in an environment of its own.
wheels: build/.installed
	.ci/check_wheels

# BENCH chooses and sizes (-k topk, --large); APPEND is the path of a file to add rows to.
# An OPENBLAS_CORETYPE meant for older builds would slow NumPy down.
bench: build/.installed
	env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE $(BIN)/pytest bench -q --benchmark-only \
	  --benchmark-quiet --benchmark-disable-gc --benchmark-max-time=0.5 \
	  --benchmark-json=build/kernels.json $(BENCH)
	$(BIN)/python bench/report.py build/kernels.json $(if $(APPEND),--append $(APPEND))

# The documentation as a site, in an environment of its own.
docs:
	PYTHON=$(PYTHON) .ci/check_docs

clean:
	rm -rf build dist web/dist web/node_modules

# One environment, in steps, each of which adds what some targets need.
build/.venv:
	$(PYTHON) -m venv $(VENV)
	touch $@

# What compiles and checks.
build/.tools: build/.venv requirements-dev.txt
	$(BIN)/pip install --quiet -r requirements-dev.txt
	touch $@

# The package, and all that it trains with and is compared with.
build/.package: build/.venv constraints.txt $(SOURCES)
	rm -rf build/release
	$(BIN)/pip install --quiet --force-reinstall --no-deps -Cbuild-dir=build/release .
	$(BIN)/pip install --quiet -c constraints.txt 'peel_ext[train,rivals,report]'
	touch $@

build/.web: build/.venv web/build.py web/package-lock.json web/tsconfig.json \
    $(wildcard web/src/*.ts) $(NATIVE_SOURCES)
	$(BIN)/pip install --quiet $(ZIG)
	$(BIN)/python web/build.py
	cd web && npm ci --silent && npm run --silent build
	touch $@

# What tests and benchmarks need beside it.
build/.installed: build/.package build/.tools
	$(BIN)/pip install --quiet -c constraints.txt 'peel_ext[test,bench,interop]'
	# RecTools asks for NumPy 1 below Python 3.13 and for NumPy 2 above; it is the same code.
	$(BIN)/pip install --quiet --no-deps -c constraints.txt rectools
	touch $@
