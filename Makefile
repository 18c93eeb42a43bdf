# What a person does with this book, one target each. Every target first sets up what it needs.

PYTHON ?= python3
PORT ?= 8000
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: help book test test-site test-bench pdf lint chapter bench serve clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 12

book: $(INSTALLED) ## execute the chapters that changed and build the site (FORCE=1: execute all)
	@$(BIN)/python tools/export.py
	@$(BIN)/python tools/execute.py $(if $(FORCE),--force)
	@echo "building the site"
	@mkdir -p _build
	@$(BIN)/python tools/export_web.py chapters/models/fragment book/assets/demo/fragment-model.js
	@$(BIN)/jupyter-book build -q -W -n --keep-going --all . >_build/log 2>&1 || { cat _build/log; exit 1; }
	@echo "open $(CURDIR)/_build/html/index.html"

# nbval comes first: it compares the notebooks as they are committed, before anything could execute them anew
test: $(INSTALLED) ## run every code cell again and compare its output, then run the tests
	@$(BIN)/pytest --nbval --nbval-current-env -n auto --dist loadfile chapters
	@$(BIN)/pytest -n auto --dist loadfile --ignore-glob='*/test_site*' --ignore-glob='*/test_benchmarks*' tests
	@echo "not tested: the site, for that needs a browser and takes minutes: make test-site"
	@echo "not tested: the benchmarks, for those need other implementations of the model: make test-bench"

test-site: book ## open every page of the site in Chromium, which has to be installed
	@$(BIN)/pytest -n auto tests/test_site*.py

pdf: book ## print the whole book into one PDF with Chromium
	@echo "setting the book on one page"
	@$(BIN)/jupyter-book build -q -W -n --keep-going --builder singlehtml . >_build/log 2>&1 || { cat _build/log; exit 1; }
	@$(BIN)/python tools/print_book.py

lint: $(INSTALLED) ## style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy tools transformer

chapter: $(INSTALLED) ## export and execute one chapter while writing: make chapter CHAPTER=03
	@test -n "$(CHAPTER)" || { echo "which one? for example: make chapter CHAPTER=03"; exit 2; }
	@$(BIN)/python tools/export.py
	@$(BIN)/python tools/execute.py $(CHAPTER) $(if $(FORCE),--force)

test-bench: .venv-bench/.installed ## test that the implementations which the benchmarks compare are the same model
	@.venv-bench/bin/pytest -n auto tests/test_benchmarks.py

bench: test-bench ## measure the package beside other implementations, for about an hour
	@.venv-bench/bin/python benchmarks/training.py --record
	@.venv-bench/bin/python benchmarks/training.py --threads 2 --record
	@.venv-bench/bin/python benchmarks/training.py --size base --rounds 3 --record
	@.venv-bench/bin/python benchmarks/decoding.py --rounds 4 --record
	@.venv-bench/bin/python benchmarks/attention.py --record
	@.venv-bench/bin/python benchmarks/growth.py --record
	@.venv-bench/bin/python benchmarks/pipeline.py --record
	@.venv-bench/bin/python benchmarks/products.py --record
	@.venv-bench/bin/python benchmarks/products.py --threads 2 --record
	@.venv-bench/bin/python benchmarks/changes.py --rounds 3 --record
	@.venv-bench/bin/python benchmarks/book.py --record

serve: book ## build the site and serve it at http://localhost:8000 (PORT=…)
	@echo "serving http://localhost:$(PORT), stop with Ctrl-C"
	@$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

clean: ## remove what was built; the environment stays, delete .venv to begin afresh
	rm -rf _build build book/assets/demo/*-model.js .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info

# Matplotlib's first import builds a font cache and may say so on stderr: here, and not in a notebook's output.
$(INSTALLED): pyproject.toml constraints.txt
	@mkdir -p transformer
	$(call environment,.venv)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[book,test]'
	@$(BIN)/python -c 'import matplotlib.font_manager' 2>/dev/null
	@touch $@

# An environment of its own: the other implementations are needed for nothing else.
.venv-bench/.installed: pyproject.toml constraints.txt
	$(call environment,.venv-bench)
	@.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench,test]'
	@touch $@

# pip is what comes last into an environment: one that lacks it was stopped while it was made, and is completed
define environment
	@command -v $(PYTHON) >/dev/null || { echo "no $(PYTHON) here: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "this book needs Python 3.11 or \
	newer, and $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=/path/to/python3.11")'
	@test -x $(1)/bin/pip || $(PYTHON) -m venv $(1)
	@echo "installing into $(1), which takes a minute or two"
endef
