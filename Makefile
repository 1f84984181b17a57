# make ask   set up, then ask a question of documents:  make ask Q="…" DOCS=folder
# make test  set up, then lint, types, floors and tests
# make sweep set up, then the long sweeps: law 1 over every attention, layout and codec
#            python3.11 where it is, else python3; another:  make PYTHON=/path/to/python3.12
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
Q      ?= Where are fetched models kept?
DOCS   ?= docs
# To the shell as they were written: no quote, backtick or dollar in them is anyone's syntax.
export QUESTION  := $(value Q)
export DOCUMENTS := $(value DOCS)
unexport Q DOCS

.PHONY: ask test sweep models clean

ask: $(VENV)/.run $(VENV)/.kernels models
	@$(BIN)/openbook ask --docs "$$DOCUMENTS" -- "$$QUESTION" || test $$? -eq 3 # 3: it abstained, and said so

test: $(VENV)/.dev $(VENV)/.kernels models
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest

sweep: $(VENV)/.dev $(VENV)/.kernels models
	$(BIN)/pytest -m sweep --hypothesis-profile=sweep

models: $(VENV)/.run
	@$(BIN)/openbook models pull --all --quiet

$(VENV)/.run: pyproject.toml constraints.txt
	@test -x $(BIN)/python || "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "openbook needs Python 3.11 or later; name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

# The native kernels, where a C++ compiler is; without them torch serves.
$(VENV)/.kernels: $(VENV)/.run $(wildcard kernels/*.t* kernels/src/*.* kernels/src/simd/* kernels/src/kernels/* kernels/openbook_kernels/*.py*)
	@if ! test -d kernels; then :; \
	elif ! command -v "$${CXX:-c++}" >/dev/null 2>&1; then \
		echo "No C++ compiler here: openbook runs on torch, several times slower. To change that: install g++, then make." >&2; \
	elif echo "building the native kernels (a minute or two, once)" >&2; \
		! $(BIN)/pip install --quiet --disable-pip-version-check ./kernels 2>$(VENV)/kernels.log; then \
		echo "The native kernels could not be built, so openbook runs on torch; $(VENV)/kernels.log says why." >&2; \
	fi
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build kernels/build *.egg-info
