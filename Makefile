# Two commands do everything on a fresh machine with Python 3.11 or newer: `make quickstart` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The exact versions that this release was tested with; /dev/null here takes the newest.
CONSTRAINTS ?= constraints.txt
# Two processes of one thread each beat one of two threads.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: quickstart test test-processes test-notebooks test-browser test-flower test-lowest bench-peers torture evidence-quick book lab lab-light lint constraints clean

quickstart: $(VENV)/.base  ## run the main job and print the path of its page
	$(BIN)/python -m reproduce quickstart

test: $(VENV)/.test  ## all tests but those below
	$(PYTEST) -n 2

test-processes: $(VENV)/.test  ## real processes that are killed, stopped, resumed and run at the same time
	$(PYTEST) -n 2 -m processes

test-notebooks: $(VENV)/.test  ## every notebook at its defaults, unsolved and solved
	$(PYTEST) -n 2 -m notebooks

test-browser: $(VENV)/.browser  ## every widget in JupyterLab and the book, in a real browser
	$(PYTEST) -m browser tests/notebooks

# Flower wants older versions of these, and other programs of .venv need not.
FLOWER := .venv-flower
test-flower: $(FLOWER)/.test  ## a SuperLink and SuperNodes on this machine, one of which is killed
	OMP_NUM_THREADS=1 $(FLOWER)/bin/python -m pytest -m flower

LOWEST := .venv-lowest
test-lowest:  ## the tests with the lowest versions that pyproject.toml allows, in an environment of their own
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(LOWEST)/bin/uv pip install --python $(LOWEST)/bin/python --resolution lowest-direct --editable '.[test]'
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n 2

bench-peers: $(VENV)/.base  ## the same job in other packages, each in an environment of its own (a few GB, ten minutes)
	$(BIN)/python -m reproduce.benchmark.peers --out reproduce/results/bench/peers.json

torture: $(VENV)/.test  ## what the tests do briefly, at length: kills, damage, malformed input, full disks, a soak
	OMP_NUM_THREADS=1 PYTHONPATH=. $(BIN)/python tests/torture.py

lab: $(VENV)/.notebooks  ## copy the notebooks to fedrevive-lab, and open JupyterLab there
	$(BIN)/python -m reproduce lab

LIGHT := .venv-light
lab-light: $(LIGHT)/.light  ## the same without PyTorch, for 01_staleness, 06_ablations and 08_reproduce
	$(LIGHT)/bin/python -m reproduce lab

# A part of the runs behind docs/RESULTS.md, made again and held against the committed ones.
AGAIN := runs/evidence-quick
CHECKED := staleness-vs-heterogeneity sceptic ablation-synthesis rivals paper-rates teachers-without-end ablation-second \
	jobs-in-flight other-splits weights end-of-run image-pools-fashion image-pools-28 image-pools-styles \
	slow-owners-store
evidence-quick: $(VENV)/.notebooks  ## re-run a part of the evidence and compare
	set -e; for name in $(CHECKED); do \
		case $$name in \
			staleness-vs-heterogeneity) only="--only federation.concurrency=80 --only data.alpha=0.1" ;; \
			weights) only="--only seed=0 --only federation.concurrency=80" ;; \
			other-splits) only="--only data.split_seed=1" ;; \
			end-of-run | image-pools-28) only="--only seed=0 --only arm=fedrevive" ;; \
			*) only="--only seed=0" ;; \
		esac; \
		$(BIN)/python -m reproduce sweep $$name $$only --out $(AGAIN)/$$name --jobs 2 --no-report --resume; \
	done
	$(BIN)/python -m reproduce evidence $(CHECKED:%=--check $(AGAIN)/%)

book: $(VENV)/.book  ## the documents, every notebook executed, and the API, as pages
	$(BIN)/python -m reproduce book --out build/book

lint: $(VENV)/.lint  ## style and types, with the tools that pyproject.toml pins
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# PyTorch brings its own exact versions of CUDA and SymPy, and a machine may have an older PyTorch than ours: so it has
# an upper bound, which a new environment gets, and what only PyTorch needs is left out.
constraints: $(VENV)/.lint  ## write constraints.txt: what .venv holds, and what other systems need beside it
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/python -m pip freeze --exclude-editable | grep == > constraints.txt
	$(BIN)/uv pip compile pyproject.toml --extra test --extra book --extra browser --extra lint --universal \
		--python-version 3.11 --fork-strategy fewest --no-annotate --quiet \
		--custom-compile-command 'make constraints' --output-file constraints.txt
	sed -E -i '/^(cuda-|nvidia-|triton|sympy|mpmath|networkx|setuptools)/d; s/^(torch|torchvision)==/\1<=/' constraints.txt

clean:
	rm -rf $(VENV) $(FLOWER) $(LOWEST) $(LIGHT) build *.egg-info

# One stamp per set of packages; each also installs the project itself, editable.
$(VENV)/.notebooks: EXTRAS := [notebooks]
$(VENV)/.book: EXTRAS := [notebooks,book]
$(VENV)/.test: EXTRAS := [test]
$(VENV)/.browser: EXTRAS := [test,book,browser]
$(VENV)/.lint: EXTRAS := [test,book,browser,lint]
$(VENV)/.base $(VENV)/.notebooks $(VENV)/.book $(VENV)/.test $(VENV)/.browser $(VENV)/.lint: \
		pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing (PyTorch is several GB, once) ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.$(EXTRAS)'
	@touch $@

$(LIGHT)/.light: requirements-light.txt pyproject.toml constraints.txt | $(LIGHT)/bin/python
	@echo "Installing (without PyTorch) ..."
	$(LIGHT)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) \
		--requirement requirements-light.txt
	$(LIGHT)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(FLOWER)/.test: pyproject.toml constraints.txt | $(FLOWER)/bin/python
	@echo "Installing (PyTorch is several GB, once) ..."
	sed -E '/^(packaging|rich|typer)=/d' $(CONSTRAINTS) > $(FLOWER)/constraints.txt
	$(FLOWER)/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint $(FLOWER)/constraints.txt --editable '.[test,flower]'
	@touch $@

$(VENV)/bin/python $(LIGHT)/bin/python $(FLOWER)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(patsubst %/bin/python,%,$@)
