# fastrnn on a fresh machine: needs Python >= 3.10, a C compiler and make. Everything else is installed into ./.venv
#
#   make demo        build, then train a character model on Python's help topics and print a sample of its text
#   make build       build and install fastrnn into .venv
#   make test        build, and run the tests (about 12 minutes on two cores)
#   make test-long   the long tests too, and the whole suite once per instruction set of this CPU
#   make fuzz        random cases for an hour, with new seeds in each round; stops at the first failure (MINUTES=5)
#   make load        an hour of concurrent callers, forks and changing shapes: same bits, flat memory (MINUTES=5)
#   make lint        ruff, cython-lint, numpydoc's rules for public docstrings, and mypy on a script that uses fastrnn
#   make bench       compare with torch, onnxruntime, OpenVINO, JAX and NumPy (an hour; ARGS=--quick: twelve minutes)
#   make sanitize    the tests of compiled code under the address and undefined-behaviour sanitizers (up to 40 minutes)
#   make sanitize-threads  the tests of threads on a build with ThreadSanitizer
#   make sanitize-short    the kernels and the thread team alone, under these sanitizers and valgrind (about a minute; CI)
#   make clean       remove .venv and everything that was built
#
# A different Python: make test PYTHON=python3.12 (recreates .venv).
# More arguments for pytest: make test ARGS='-k lstm -x' (paths are relative to tests/).

PYTHON = python3
ARGS =
WERROR = 0
MINUTES = 60
LINT_TOOLS = ruff==0.17.6 cython-lint==0.22.1 numpydoc==1.11.0 mypy==2.4.1

# The Python of the existing .venv, unless PYTHON is given. The stamp files contain its tag, so another Python rebuilds.
BASE := $(if $(filter file,$(origin PYTHON)),$(or $(wildcard .venv/bin/python),$(PYTHON)),$(PYTHON))
TAG := $(or $(shell $(BASE) -c 'import sys; print("cpython-%d%d" % sys.version_info[:2])' 2>/dev/null),none)
ISA_LIST = import fastrnn._engine as e; print(*e.available_isas())
SOURCES := setup.py pyproject.toml $(wildcard src/*.c src/*.h src/*.pxd src/fastrnn/_engine/*) \
           $(wildcard fastrnn/*.py fastrnn/*.pyi fastrnn/*/*.py bench/*.py bench/*/*.py)
FIND_COMPILER = import os, sysconfig; \
    print((os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0])
COMPILER = $(shell .venv/bin/python -c '$(FIND_COMPILER)')

help:
	@sed -n 's/^#   make/make/p' Makefile

# ---- .venv ----------------------------------------------------------------------------------------------------------

define CHECK
import os, sys
v = "%d.%d" % sys.version_info[:2]
if sys.version_info < (3, 10):
    sys.exit("fastrnn needs Python 3.10 or newer, but $(PYTHON) is Python %s: run make PYTHON=python3.12 ..." % v)
try:
    import ensurepip, venv
except ImportError:
    sys.exit("$(PYTHON) has no venv module: install it (Debian, Ubuntu: apt install python%s-venv)" % v)
import shutil, sysconfig
cc = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
if not shutil.which(cc):
    sys.exit("no C compiler: %s was not found; install gcc or clang (Debian, Ubuntu: apt install gcc), or set CC" % cc)
if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
    sys.exit("no Python.h in %s: install Python's headers (Debian, Ubuntu: apt install python%s-dev)"
             % (sysconfig.get_path("include"), v))
endef
export CHECK

.venv/$(TAG):
	@command -v $(PYTHON) >/dev/null || { \
	    echo "$(PYTHON) was not found: install Python 3.10 or newer, or run make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c "$$CHECK"
	@rm -rf .venv
	@echo "creating .venv with $$($(PYTHON) -V)"
	@$(PYTHON) -m venv .venv
	@touch $@

# pip does not compile modules (--no-compile), since most of torch's and Keras' are never imported. Python compiles the
# others at their first import and stores the result, so this must not be disabled.
unexport PYTHONDONTWRITEBYTECODE

NO_NETWORK = Could not fetch URL|Failed to establish a new connection|NewConnectionError|Max retries exceeded
NO_NETWORK := $(NO_NETWORK)|ConnectTimeout|Temporary failure in name|from versions: none

# $(call install,arguments of pip install,log file,VARIABLE=value): prints nothing unless it fails
define install
	@mkdir -p build
	@$(3) .venv/bin/pip install --disable-pip-version-check --no-input --no-compile $(1) >build/$(2).log 2>&1 || { \
	    if grep -qE '$(NO_NETWORK)' build/$(2).log; \
	    then echo "pip cannot reach its package index: check the network, or set PIP_INDEX_URL (log: build/$(2).log)" >&2; \
	    else tail -60 build/$(2).log >&2; echo "the installation failed: the log is build/$(2).log" >&2; fi; exit 1; }
endef

# build/lib* is removed so that a module deleted from the sources is not in the wheel.
.venv/built-$(TAG): .venv/$(TAG) $(SOURCES)
	@echo "building fastrnn (a minute or two; the log is build/build.log)"
	@rm -rf build/lib*
	$(call install,.,build,FASTRNN_WERROR=$(WERROR))
	@touch $@

.venv/test-$(TAG): .venv/$(TAG) $(SOURCES)
	@echo "building fastrnn and installing the packages for its tests (a few minutes; the log is build/test.log)"
	@rm -rf build/lib*
	$(call install,'.[test]',test,FASTRNN_WERROR=$(WERROR))
	@touch .venv/built-$(TAG) $@

.venv/bench-$(TAG): .venv/$(TAG) $(SOURCES)
	@echo "building fastrnn and installing its peers (several minutes; the log is build/bench.log)"
	@rm -rf build/lib*
	$(call install,'.[bench]',bench,FASTRNN_WERROR=$(WERROR))
	@touch .venv/built-$(TAG) $@

.venv/lint-$(TAG): .venv/$(TAG) Makefile
	$(call install,$(LINT_TOOLS),lint)
	@touch $@

# ---- targets --------------------------------------------------------------------------------------------------------

build: .venv/built-$(TAG)

demo: build
	@rm -rf build/demo
	@.venv/bin/fastrnn train --out build/demo

# Run from the folder tests: in the root folder, `python -c` would import the sources instead of the installed package.
# There is one process per core, at most four, and the tests of a file stay together. ARGS=-n0 runs one process, as a
# debugger needs it.
PYTEST = cd tests && ../.venv/bin/pytest -n auto --maxprocesses 4 --dist loadfile --benchmark-disable

test: .venv/test-$(TAG)
	@.venv/bin/python -c 'import importlib.util as u; \
	u.find_spec("torch") or print("torch is not installed: the tests against torch are skipped")'
	@$(PYTEST) $(ARGS)

test-long: .venv/test-$(TAG)
	@$(PYTEST) -m "" $(ARGS)
	@set -e; for isa in $$(.venv/bin/python -c '$(ISA_LIST)'); do \
	    echo "== FASTRNN_ISA=$$isa"; (export FASTRNN_ISA=$$isa; $(PYTEST) $(ARGS)); done

fuzz: .venv/test-$(TAG)
	@mkdir -p build; : > build/fuzz.log; seed=100000; end=$$(($$(date +%s) + 60 * $(MINUTES))); \
	while [ $$(date +%s) -lt $$end ]; do \
	    (export FASTRNN_FUZZ=4 FASTRNN_FUZZ_SEED=$$seed; $(PYTEST) -m fuzz -x -q $(ARGS)) >build/fuzz-round.log 2>&1 \
	        || { cat build/fuzz-round.log; exit 1; }; \
	    grep '^random cases' build/fuzz-round.log >>build/fuzz.log; seed=$$((seed + 100000)); \
	    awk '{n += $$3} END {print n " random cases in " NR " rounds, no failure"}' build/fuzz.log; \
	done

# MALLOC_ARENA_MAX: with one arena per thread, the fragmentation caused by changing shapes would look like a leak.
load: .venv/test-$(TAG)
	@cd tests && MALLOC_ARENA_MAX=1 ../.venv/bin/python load.py --minutes $(MINUTES) $(ARGS)

# On one thread, then on all cores. Results and page are written to build/bench.
bench: .venv/bench-$(TAG)
	.venv/bin/fastrnn bench --threads 1 $(ARGS)
	.venv/bin/fastrnn bench --threads 0 $(ARGS)

lint: .venv/built-$(TAG) .venv/lint-$(TAG)
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check --quiet .
	@PATH="$(CURDIR)/.venv/bin:$$PATH" cython-lint src src/fastrnn/_engine
	@cd tests && ../.venv/bin/python -W ignore ../docs/docstrings.py
	@cd tests && ../.venv/bin/mypy --strict --cache-dir ../build/mypy typed.py

# The test files that run compiled code. The others test readers, the command and adapters, which have no compiled code
# of ours.
NATIVE_TESTS = attention attention_kernels decoder_plans exactness forward gradients kernels language_model \
               layer_sizes layers memory_network network one_row optim options ownership planned plans search \
               softmax_linear stacked states structures threads training vector_to_sequence
# Without AVX-512, whose kernels take longer to compile than the tests take to run. make sanitize ISAS=v4 includes it.
ISAS = $(if $(filter x86_64,$(shell uname -m)),v3$(comma)v2)
comma = ,
# Tests that measure times take minutes under sanitizers, and so do tests with many processes under ThreadSanitizer.
# What a training run continues from is not a question of memory; float64 of v2 is left to the native driver.
SLOW_TIMES = not single_cpu and not ctrl_c_ends
QUICK = $(SLOW_TIMES) and not resume and not (v2 and float64)
RACES = $(SLOW_TIMES) and not processes_started and not joblib

# $(call sanitized,library of the sanitizer,FASTRNN_DEBUG,folder,instruction sets,tests)
# Reports go to files, so that those of subprocesses count too.
define sanitized
	@echo "building with sanitizers (the log is build/sanitize.log)"
	@rm -rf $(3)/lib* $(3)/site $(3)/report*
	$(call install,--no-deps --target $(3)/site .,sanitize,FASTRNN_DEBUG=$(2) FASTRNN_ISAS=$(4))
	@runtime=$$($(COMPILER) -print-file-name=$(1)); \
	options="log_path=$(CURDIR)/$(3)/report:detect_leaks=0:print_stacktrace=1:die_after_fork=0:malloc_context_size=2"; \
	(export LD_PRELOAD=$$runtime PYTHONMALLOC=malloc PYTHONPATH="$(CURDIR)/$(3)/site"; \
	    export ASAN_OPTIONS=$$options UBSAN_OPTIONS=$$options TSAN_OPTIONS=$$options; \
	    $(PYTEST) --dist worksteal -m "not long and not torch and not keras and not onnxruntime" -p no:cacheprovider \
	    $(5) $(ARGS)); status=$$?; \
	if ls $(3)/report* >/dev/null 2>&1; then cat $(3)/report*; status=1; fi; exit $$status
endef

sanitize: .venv/test-$(TAG) sanitize-short
	$(call sanitized,libasan.so,1,build/debug,$(ISAS),$(NATIVE_TESTS:%=test_%.py) -k '$(QUICK)')

sanitize-threads: .venv/test-$(TAG) sanitize-short
	$(call sanitized,libtsan.so,threads,build/debug-threads,$(firstword $(subst $(comma), ,$(ISAS))),\
	    test_threads.py -k '$(RACES)')

sanitize-short:
	@$(MAKE) --no-print-directory $(if $(findstring -j,$(MAKEFLAGS)),,-j2) -C tests/native CC="$(or $(CC),cc)" address threads memcheck

clean:
	rm -rf .venv build dist *.egg-info fastrnn/_lib fastrnn/_engine/*.so .pytest_cache .hypothesis .ruff_cache .benchmarks
	find fastrnn tests bench -name __pycache__ -prune -exec rm -rf {} +

.PHONY: help build demo test test-long fuzz load bench lint sanitize sanitize-threads sanitize-short clean
