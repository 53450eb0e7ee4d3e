# Thin: every target is one idea. `make book` and `make test` are all that a reader needs.
# The environment is made once from pyproject.toml and constraints.txt; remove .venv to make it afresh.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/ready
# What differs with versions: not the book, its pages, nor tests that start many processes.
UNIT   := tests --ignore=tests/book --ignore=tests/scripts --ignore=tests/distributed --ignore=tests/test_benchmarks.py
OTHER  := build/versions
CONSTRAINTS := constraints.txt
# Files of tests side by side, at most four (each process takes a gigabyte), in the order of their names, so that those
# that take minutes do not come last. One thread for each: two that share a core wait for one another.
PYTEST := pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

.PHONY: help setup book test fast test-python test-lowest lint html pdf links spelling lab pretrain store release course \
	bench clean

help:
	@echo "make book      set up, execute the chapters (with the small pretraining), build the site book/_build/html"
	@echo "make test      set up, lint, types, import contract, all tests"
	@echo "make fast      lint, types, and the tests of the library that take no process and no chapter"
	@echo "make test-lowest   the unit tests with the lowest versions that pyproject.toml promises (Python 3.11)"
	@echo "make test-python PYTHON=python3.13   the unit tests on another Python, with constraints.txt"
	@echo "make lab       open the chapters in JupyterLab"
	@echo "make pretrain  pretrain a small ViT with DINO-vMF on photographs into runs/photos (two minutes)"
	@echo "make html      build the site from the committed notebooks, without executing them"
	@echo "make pdf       print the whole book into book/_build/vmflearn.pdf (needs Chromium)"
	@echo "make links     look whether the book's outside addresses can be reached (needs the network)"
	@echo "make spelling  look for words that no dictionary has (needs hunspell)"
	@echo "make release   student notebooks, solutions removed, into book/release"
	@echo "make course    a course into book/course: nbgrader tree, student and instructor bundles, slides, quiz bank"
	@echo "make store     execute the chapters and store the committed notebooks (for authors)"
	@echo "make bench     run the benchmarks into benchmarks/results"

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[book,test]"
	touch $@

book: $(READY)
	$(BIN)/python book/tools/vendor.py
	$(BIN)/python book/tools/execute.py run
	$(BIN)/python book/tools/build_site.py --notebooks book/_build/notebooks

html: $(READY)
	$(BIN)/python book/tools/vendor.py
	$(BIN)/python book/tools/build_site.py

pdf: html
	$(BIN)/python book/tools/pdf.py

links: $(READY)
	$(BIN)/python book/tools/links.py

spelling: $(READY)
	$(BIN)/python book/tools/spelling.py

test: $(READY) lint
	$(BIN)/python book/tools/vendor.py
	OMP_NUM_THREADS=1 $(BIN)/python -m $(PYTEST) --durations=25

# For the loop of a developer: the book, the scripts, several processes and slow tests are left to `make test`.
fast: $(READY) lint
	OMP_NUM_THREADS=1 $(BIN)/python -m $(PYTEST) -m "not slow and not distributed" $(UNIT)

# The unit tests in an environment of their own, made afresh: make test-python PYTHON=python3.13
test-python:
	$(PYTHON) -m venv --clear $(OTHER)
	$(OTHER)/bin/python -m pip install --quiet --upgrade pip
	$(OTHER)/bin/python -m pip install --quiet --no-compile --constraint $(CONSTRAINTS) --editable ".[test]"
	$(OTHER)/bin/python -m pip check
	OMP_NUM_THREADS=1 $(OTHER)/bin/python -m $(PYTEST) -m "not slow and not distributed" $(UNIT)

test-lowest:
	$(MAKE) test-python PYTHON=python3.11 CONSTRAINTS=constraints-lowest.txt

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lab: $(READY)
	$(BIN)/python book/tools/readable.py
	$(BIN)/jupyter lab --notebook-dir=. book/lab/01_directions.ipynb

pretrain: $(READY)
	$(BIN)/python scripts/pretrain.py --config scripts/configs/photos_vit_tiny_dino_vmf.yaml

store: $(READY)
	$(BIN)/python book/tools/execute.py store

release: $(READY)
	$(BIN)/python book/tools/release.py

course: $(READY)
	$(BIN)/python book/tools/course.py

bench: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/accuracy.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/sphere.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/starts.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/converge.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/distillation.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/views.py
	OMP_NUM_THREADS=2 $(BIN)/python benchmarks/pretrain.py
	OMP_NUM_THREADS=2 $(BIN)/python benchmarks/patches.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/input_pipeline.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/methods_on_photos.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/evaluation.py

clean:
	rm -rf book/_build book/release build dist
