# Two commands on a fresh machine, nothing before them:
#   make demo   the device side only (no torch), then the demo frames are certified
#   make test   the full environment, then lint, types, import contracts and all tests

PYTHON ?= python3
DEVICE := .venv
FULL := .venv-dev
WHEELS := build/wheelhouse

.PHONY: demo test lint bench fuzz demo-model clean

demo: $(DEVICE)/.installed
	$(DEVICE)/bin/edgers demo

test: lint $(WHEELS)/.filled
	$(FULL)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(FULL)/.installed
	$(FULL)/bin/ruff check
	$(FULL)/bin/ruff format --check
	$(FULL)/bin/mypy
	$(FULL)/bin/lint-imports

# What the machine does besides: later the one-minute load would be that of the script before.
bench: export LOAD := $(shell cut -d ' ' -f 1 /proc/loadavg)
bench: $(FULL)/.installed $(DEVICE)/.installed
	$(FULL)/bin/python -m pip install --quiet -e '.[bench]'
	$(FULL)/bin/python bench/certify.py $(DEVICE)/bin/edgers
	$(FULL)/bin/python bench/outside.py build/miniature
	$(FULL)/bin/python bench/bounds.py
	$(FULL)/bin/python bench/decisions.py
	$(FULL)/bin/python bench/sequential.py
	$(FULL)/bin/python bench/decision_time.py build/miniature
	$(FULL)/bin/python bench/paper_figure.py
	$(FULL)/bin/python bench/growth.py build/miniature
	$(FULL)/bin/python bench/batches.py build/miniature
	$(FULL)/bin/python bench/oracles.py
	$(FULL)/bin/python bench/harm.py
	$(FULL)/bin/python bench/gate.py
	$(FULL)/bin/python bench/peers/compare.py build/miniature
	$(FULL)/bin/python bench/ablation.py build/miniature

# Over a million hostile inputs, on one core in under half an hour; see docs/robustness.md.
fuzz: $(FULL)/.installed
	$(FULL)/bin/python -m pip install --quiet -e '.[fuzz]'
	$(FULL)/bin/python -m fuzz.run

# Trains the demo model (about a quarter of an hour on two cores), exports it, measures it.
demo-model: $(FULL)/.installed
	$(FULL)/bin/python -m edgers.demo.build

clean:
	rm -rf $(DEVICE) $(FULL) build dist

$(DEVICE)/.installed: pyproject.toml
	@echo "installing the device side into $(DEVICE): about half a minute"
	$(PYTHON) -m venv $(DEVICE)
	$(DEVICE)/bin/python -m pip install --quiet -e '.[cpu,plot]'
	touch $@

# torch comes first and by its exact version: asked for by a range, pip may choose a build of several GB.
$(FULL)/.installed: pyproject.toml
	@echo "installing everything into $(FULL): some minutes"
	$(PYTHON) -m venv $(FULL)
	$(FULL)/bin/python -m pip install --quiet torch==2.13.0
	$(FULL)/bin/python -m pip install --quiet -e '.[cpu,plot,judge,export,dev]'
	touch $@

# What the wheel test installs from, so that the test itself needs no network.
$(WHEELS)/.filled: $(FULL)/.installed
	$(FULL)/bin/python -m pip wheel --quiet --wheel-dir $(WHEELS) '.[cpu]'
	rm -f $(WHEELS)/edgers-*.whl
	touch $@
