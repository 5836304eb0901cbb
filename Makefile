# Two commands do everything on a fresh machine with Python 3.11 or newer: `make quickstart` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two processes of one thread each beat one of two threads.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: quickstart test test-notebooks test-browser torture evidence-quick pages lab lint clean

quickstart: $(VENV)/.base  ## run the main job and print the path of its page
	$(BIN)/python -m reproduce quickstart

test: $(VENV)/.test  ## lint, types, all tests
	$(MAKE) --no-print-directory lint
	$(PYTEST) -n 2

test-notebooks: $(VENV)/.test  ## every notebook at its defaults, unsolved and solved
	$(PYTEST) -n 2 -m notebooks

test-browser: $(VENV)/.browser  ## every widget in JupyterLab, in a real browser
	$(PYTEST) -m browser tests/notebooks/test_browser.py

torture: $(VENV)/.test  ## what the tests do briefly, at length: kills, damage, malformed input, full disks, a soak
	OMP_NUM_THREADS=1 PYTHONPATH=. $(BIN)/python tests/torture.py

lab: $(VENV)/.notebooks  ## open JupyterLab at the contents page of the notebooks
	$(BIN)/jupyter lab notebooks/index.ipynb

# A part of the runs behind docs/RESULTS.md, made again and held against the committed ones.
AGAIN := runs/evidence-quick
evidence-quick: $(VENV)/.notebooks  ## re-run a part of the evidence (ten minutes) and compare
	$(BIN)/python -m reproduce sweep staleness-vs-heterogeneity --only federation.concurrency=80 --only data.alpha=0.1 \
		--out $(AGAIN)/map --jobs 2 --no-report $$([ -d $(AGAIN)/map ] && echo --resume)
	$(BIN)/python -m reproduce sweep sceptic --out $(AGAIN)/sceptic --jobs 2 --no-report \
		$$([ -d $(AGAIN)/sceptic ] && echo --resume)
	$(BIN)/python -m reproduce sweep ablation-synthesis --only seed=0 --out $(AGAIN)/synthesis --jobs 2 --no-report \
		$$([ -d $(AGAIN)/synthesis ] && echo --resume)
	$(BIN)/python -m reproduce evidence --check $(AGAIN)/map --check $(AGAIN)/sceptic --check $(AGAIN)/synthesis

pages: $(VENV)/.notebooks  ## every notebook executed, as pages with an index
	$(BIN)/python -m reproduce pages --out build/pages

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build *.egg-info

# One stamp per set of packages; each also installs the project itself, editable.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: pyproject.toml | $(VENV)/bin/python
	@echo "Installing (PyTorch is several GB, once) ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.test: pyproject.toml | $(VENV)/bin/python
	@echo "Installing (PyTorch is several GB, once) ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@

$(VENV)/.browser: pyproject.toml | $(VENV)/bin/python
	@echo "Installing (PyTorch is several GB, once) ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,browser]'
	@touch $@

$(VENV)/.notebooks: pyproject.toml | $(VENV)/bin/python
	@echo "Installing (PyTorch is several GB, once) ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[notebooks]'
	@touch $@
