# Each target does all its own set-up in .venv.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test lint slow clean

demo: .venv/demo.stamp
	$(BIN)/worldclip run recipes/emoji.toml --out runs/emoji

test: .venv/dev.stamp lint
	$(BIN)/python -m pytest

slow: .venv/dev.stamp
	$(BIN)/python -m pytest -m slow

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell src docs tests README.md CONTRIBUTING.md CHANGELOG.md

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo.stamp: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install -q -e '.[demo,train]'
	touch $@

.venv/dev.stamp: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install -q -e '.[metadata,pool,ray,demo,train,eval,export,dev]'
	touch $@

clean:
	rm -rf .venv runs build dist *.egg-info src/*.egg-info
