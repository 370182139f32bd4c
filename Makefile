# Each target is the only command that is needed: it first does what set-up is missing. A second run skips what is done.
#
#   PYTHON=python3.11   the Python that the virtual environment is made from (3.10 or later)
#   DATA=folder         images and weights for the export in `make demo` (docs/export.md); also PACKQVIT_DATA
#   PYTEST_ARGS="-k x"  passed to pytest by `make test` and `make pytest`
#   BENCH_ARGS="..."    passed to the model benchmark: --model deit_small, --rounds 100, --no-peers, ...
#   ZOO_ARGS="..."      passed to the zoo: --model "...", --preset W4A8, --keep, --no-timed, --publish docs
#   COMPARE_ARGS="..."  passed to the comparison: --model, --weights, --contestant W4A8, --keep, --publish docs, ...

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
DATA ?= $(or $(PACKQVIT_DATA),$(wildcard ../shared/data))
PYTEST_ARGS ?=
BENCH_ARGS ?=
COMPARE_ARGS ?=
ZOO_ARGS ?=
JOBS ?= $(shell nproc)

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Of 20,000 Python files a third is ever imported: each is compiled when it is.
PIP_INSTALL := $(PIP) install -q --no-compile
# And then kept: else each process that a test starts compiles what it imports, for 6 s.
unexport PYTHONDONTWRITEBYTECODE
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHON

NATIVE_SOURCES := CMakeLists.txt packqvit_delegate/serialization/schema.fbs \
  $(shell find cmake backend_cpp -type f \( -name '*.cpp' -o -name '*.h' -o -name '*.cmake' -o -name CMakeLists.txt \))
CPP_SOURCES := $(filter %.cpp %.h,$(NATIVE_SOURCES)) $(wildcard tests/cmake/*/*.cpp examples/cpp/*.cpp)
EXECUTORCH_AARCH64 := build/executorch-aarch64

.PHONY: help
help:  ## Show the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

.PHONY: demo
demo: $(STAMPS)/package  ## Train and run handwritten digits at 8 and 4 bits, then export a 4-bit ViT
	$(BIN)/python examples/digits.py
ifeq ($(DATA),)
	$(BIN)/packqvit export --bits 4 --weights random --output build/deit_tiny_w4a4.pte
else
	$(BIN)/packqvit export --bits 4 --model vit_tiny \
	  --weights $(DATA)/vit_tiny_patch16_224.in1k.safetensors \
	  --calibration $(DATA)/imagenet_one_per_class_1000 \
	  --evaluate $(DATA)/ilsvrc_val_500 --output build/vit_tiny_w4a4.pte
endif

.PHONY: test
test: lint docs ctest ctest-aarch64 android-check pytest  ## Run everything CI runs: lint, docs, C++ tests, Python tests (aarch64 under qemu included)

.PHONY: build
build: $(STAMPS)/package  ## Make .venv and install the package into it, editable, with its native library

.PHONY: lint
lint: $(STAMPS)/package $(STAMPS)/test-tools  ## Check style and types: ruff, mypy, clang-format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@echo "clang-format: $(words $(CPP_SOURCES)) files"
	@$(BIN)/clang-format --dry-run -Werror $(CPP_SOURCES)

.PHONY: docs
docs: $(STAMPS)/package $(STAMPS)/test-tools  ## Build the documentation site into build/site, warnings as errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q

.PHONY: format
format: $(STAMPS)/test-tools  ## Format Python and C++
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP_SOURCES)

# In the folder of the preset, which docs/android.md installs from: its test then finds the libraries built.
.PHONY: ctest
ctest: $(STAMPS)/test-tools  ## Build the C++ tests with warnings as errors and run them
	$(BIN)/cmake --preset linux-x86_64 -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python \
	  -DPACKQVIT_BUILD_TESTS=ON -DPACKQVIT_WERROR=ON >build/linux-x86_64.log || { cat build/linux-x86_64.log; exit 1; }
	$(BIN)/cmake --build build/linux-x86_64 -j $(JOBS)
	$(BIN)/ctest --test-dir build/linux-x86_64 --output-on-failure -j $(JOBS)

.PHONY: ctest-aarch64
ctest-aarch64: aarch64  ## Run the C++ tests for aarch64 under qemu, on CPUs with and without dotprod and i8mm
	scripts/ctest_aarch64.sh build/aarch64

CROSS := -DCMAKE_TOOLCHAIN_FILE=$(CURDIR)/cmake/aarch64-linux-gnu.cmake \
  -Dexecutorch_DIR=$(CURDIR)/$(EXECUTORCH_AARCH64)/executorch/share/cmake

.PHONY: aarch64
aarch64: $(STAMPS)/test-tools $(EXECUTORCH_AARCH64)  ## Cross-compile for aarch64 (tests run it under qemu)
	$(BIN)/cmake -S . -B build/aarch64 -G Ninja -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python $(CROSS) \
	  -DPACKQVIT_BUILD_TESTS=ON -DPACKQVIT_WERROR=ON >build/aarch64.log || { cat build/aarch64.log; exit 1; }
	$(BIN)/cmake --build build/aarch64 -j $(JOBS)

# Not part of `make test`: half an hour. LeakSanitizer cannot look into a process under qemu.
.PHONY: sanitize
sanitize: $(STAMPS)/test-tools $(EXECUTORCH_AARCH64)  ## Run the C++ tests with address and undefined behaviour sanitizers
	for target in x86 aarch64; do \
	  flags=; [ $$target = x86 ] || flags="$(CROSS)"; \
	  $(BIN)/cmake -S . -B build/sanitize-$$target -G Ninja -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python $$flags \
	    -DPACKQVIT_BUILD_TESTS=ON -DPACKQVIT_BUILD_RUNNER=OFF -DPACKQVIT_SANITIZE=ON && \
	  $(BIN)/cmake --build build/sanitize-$$target -j $(JOBS) || exit 1; \
	done
	ASAN_OPTIONS=allocator_may_return_null=1 $(BIN)/ctest --test-dir build/sanitize-x86 --output-on-failure -j $(JOBS)
	ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 scripts/ctest_aarch64.sh build/sanitize-aarch64

# Status 3: the npm package that it links against is not there and cannot be fetched.
.PHONY: android-check
android-check: $(STAMPS)/package $(STAMPS)/test-tools  ## Compile and link for Android without an NDK, look at every symbol
	$(BIN)/python scripts/android_check.py --jobs $(JOBS) || [ $$? = 3 ]

.PHONY: pytest
pytest: $(STAMPS)/package $(STAMPS)/test-tools aarch64  ## Run the Python tests
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

.PHONY: bench
bench: $(STAMPS)/package $(STAMPS)/bench-tools  ## Measure kernels and models on this machine, beside XNNPACK
	$(BIN)/cmake -S . -B build/bench -G Ninja -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python \
	  -DPACKQVIT_BUILD_BENCH=ON -DPACKQVIT_BUILD_RUNNER=OFF >build/bench.log || { cat build/bench.log; exit 1; }
	$(BIN)/cmake --build build/bench -j $(JOBS) --target packqvit_kernel_bench
	mkdir -p build/benchmarks
	build/bench/backend_cpp/bench/packqvit_kernel_bench --benchmark_out=build/benchmarks/kernels.json
	$(BIN)/python -m benchmarks.models $(BENCH_ARGS)

# Options of COMPARE_ARGS come last and replace these. Peers that cannot be installed are named and left out.
.PHONY: compare
compare: $(STAMPS)/package $(STAMPS)/bench-tools $(STAMPS)/peers  ## Compare with other runtimes on a trained model: accuracy, time, size
	@test -n "$(DATA)" || { echo "make compare: name the folder of weights and images: DATA=folder"; exit 1; }
	$(BIN)/python -m benchmarks.compare --model vit_tiny \
	  --weights $(DATA)/vit_tiny_patch16_224.in1k.safetensors \
	  --calibration $(DATA)/imagenet_one_per_class_1000 --images $(DATA)/ilsvrc_val_500 $(COMPARE_ARGS)

# Not part of `make test`: two hours. The stub stands in for torchvision's operators where it has no build for this torch.
.PHONY: zoo
zoo: $(STAMPS)/package $(STAMPS)/test-tools $(STAMPS)/bench-tools  ## Try 130 models of timm, Hugging Face and torchvision (docs/models.md)
	PYTHONPATH=tests $(BIN)/python -m benchmarks.zoo $(ZOO_ARGS)

.PHONY: bench-aarch64
bench-aarch64: $(STAMPS)/package $(EXECUTORCH_AARCH64)  ## Count AArch64 instructions under qemu, model the inner loops
	scripts/system_packages.sh bench-aarch64
	$(BIN)/cmake -S . -B build/aarch64-clang -G Ninja -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python \
	  -DCMAKE_TOOLCHAIN_FILE=$(CURDIR)/cmake/aarch64-linux-gnu-clang.cmake \
	  -Dexecutorch_DIR=$(CURDIR)/$(EXECUTORCH_AARCH64)/executorch/share/cmake \
	  >build/aarch64-clang.log || { cat build/aarch64-clang.log; exit 1; }
	$(BIN)/cmake --build build/aarch64-clang -j $(JOBS)
	$(CC) -O2 -Wall -Wextra -shared -fPIC -fvisibility=hidden -o build/libinstruction_counter.so \
	  benchmarks/qemu/instruction_counter.c
	$(BIN)/python -m benchmarks.mca --build build/aarch64-clang
	$(BIN)/python -m benchmarks.instructions --plugin build/libinstruction_counter.so \
	  --runner build/aarch64-clang/backend_cpp/runner/packqvit_runner

# Not part of `make test`, which installs the wheel of the tree without fetching anything: here the wheel is made of the
# source distribution, and installed with all that pip fetches for it.
.PHONY: wheel
wheel: $(STAMPS)/package $(STAMPS)/test-tools  ## Build dist/: source distribution and wheel, tagged, installed, tried
	rm -rf build/dist dist
	$(BIN)/python -m build --no-isolation -o build/dist .
	$(BIN)/python scripts/repair_wheel.py build/dist/*.whl dist
	cp build/dist/*.tar.gz dist
	PACKQVIT_WHEEL=$$(ls dist/*.whl) $(BIN)/python -m pytest -n 0 -m "" tests/cli/test_wheel.py

.PHONY: clean
clean:  ## Remove the builds, keep .venv
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis $(STAMPS)/package

.PHONY: distclean
distclean: clean  ## Remove .venv as well
	rm -rf $(VENV)

# --- set-up -----------------------------------------------------------------------------------------------------------

$(STAMPS)/python: pyproject.toml scripts/requirements.py
	scripts/system_packages.sh build
	$(PIP) --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	mkdir -p build $(STAMPS)
	@echo "Installing Python packages into $(VENV) (minutes, the first time)"
	$(PIP_INSTALL) -r <($(BIN)/python scripts/requirements.py build project examples) 'cmake>=3.28' ninja
	touch $@

# Without isolation: the build uses the ExecuTorch just installed, and a rebuild compiles only what changed.
$(STAMPS)/package: $(STAMPS)/python $(NATIVE_SOURCES)
	@echo "Building the native library"
	$(PIP_INSTALL) --no-build-isolation --no-deps -e . --config-settings=build-dir=build/native
	touch $@

$(STAMPS)/test-tools: $(STAMPS)/python
	scripts/system_packages.sh test
	$(PIP_INSTALL) -r <($(BIN)/python scripts/requirements.py test)
	touch $@

$(STAMPS)/bench-tools: $(STAMPS)/python
	scripts/system_packages.sh bench
	$(PIP_INSTALL) -r <($(BIN)/python scripts/requirements.py bench)
	touch $@

$(STAMPS)/peers: $(STAMPS)/python
	$(PIP_INSTALL) -r <($(BIN)/python scripts/requirements.py peers) || echo "not all peers can be installed"
	touch $@

# The same release of ExecuTorch as the host's, for aarch64: headers and shared libraries to link against.
$(EXECUTORCH_AARCH64): $(STAMPS)/python
	rm -rf $@ build/wheels
	$(PIP) download -q --no-deps --only-binary=:all: --platform manylinux_2_28_aarch64 -d build/wheels \
	  $$($(BIN)/python scripts/requirements.py build | grep '^executorch')
	$(BIN)/python -m zipfile -e build/wheels/executorch-*.whl $@
	rm -r build/wheels
	touch $@
