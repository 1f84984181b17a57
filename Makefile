# make ask   set up, then ask a question of documents:  make ask Q="…" DOCS=folder
# make test  set up, then lint, types, floors and tests
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
Q      ?= Where are fetched models kept?
DOCS   ?= docs


.PHONY: ask test lint models clean

ask: $(VENV)/.run models
	@$(BIN)/openbook ask "$(Q)" --docs "$(DOCS)"

test: $(VENV)/.dev models
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest

models: $(VENV)/.run
	@$(BIN)/openbook models pull --all --quiet

$(VENV)/.run: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info
