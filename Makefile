# Everything runs in .venv, which scripts/setup makes once and keeps up to date.

VENV ?= .venv
BIN := $(VENV)/bin
CLIP ?= tests/clips/librispeech-6930.flac
DIR ?= tests/clips
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench manual wheel clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.ready-dev ## set up .venv for use and development, without running anything

demo: $(VENV)/.ready-bench ## set up, put speech through the codec, say how it came out, and make a page of it
	@mkdir -p build
	$(BIN)/sotto transcode --force $(CLIP) build/demo.wav --picture build/demo.png
	$(BIN)/sotto bench speech $(DIR) --clips 2 --max-seconds 5 --presets 1k2,2k,3k6 --peers none \
		--no-phones --page build/page --force >build/page.txt
	@echo
	@echo "listen:    build/demo.wav   (before: $(CLIP))"
	@echo "look:      build/demo.png"
	@echo "both:      build/page/index.html in a browser   (its table: build/page.txt)"
	@echo "more:      $(BIN)/sotto --help"

# A process for each core with one thread each: threads of several processes would only get in each
# other's way. The files begin in the order of tests/conftest.py, not by their number of tests.
test: $(VENV)/.ready-dev ## set up and run the tests (ARGS="-m slow" for the slow ones)
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(VENV)/.ready-dev ## check style and types
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.ready-bench ## quality, bitrate and speed on a folder of speech (DIR=tests/clips)
	$(BIN)/sotto bench speech $(DIR)

manual: $(VENV)/.ready-dev ## make the manual page, docs/sotto.1, from the command line's own options
	$(BIN)/python -m tui.manual > docs/sotto.1.new
	mv docs/sotto.1.new docs/sotto.1

wheel: $(VENV)/.ready-dev ## build dist/*.whl and try it where there is no compiler and no git
	VENV=$(VENV) scripts/try-wheel

clean: ## remove what was built (not .venv)
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find codec models stream tui tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.ready-bench: pyproject.toml scripts/setup scripts/install-torch
	VENV=$(VENV) scripts/setup bench
	@touch $@

$(VENV)/.ready-dev: pyproject.toml scripts/setup scripts/install-torch
	VENV=$(VENV) scripts/setup dev
	@touch $@ $(VENV)/.ready-bench
