# A fresh machine needs Python >= 3.11, pip and make. Every target sets itself up.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
EXTRAS ?= test,docs,notebooks
BIN := .venv/bin
export UV_PYTHON_DOWNLOADS = never

.PHONY: setup digits test test-slow lint types docs notebooks bench ci clean

setup: .venv/.ok

# constraints.txt is the exact tested set, for Python 3.11; other versions resolve within pyproject's ranges.
.venv/.ok: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q uv || true
	constraint=$$($(BIN)/python -c 'import sys; print("-c constraints.txt" if sys.version_info[:2] == (3, 11) else "")'); \
	if [ -x $(BIN)/uv ]; then $(BIN)/uv pip install -q --python $(BIN)/python $$constraint -e ".[$(EXTRAS)]"; \
	else $(BIN)/python -m pip install -q $$constraint -e ".[$(EXTRAS)]"; fi
	touch $@
