# A fresh machine needs Python >= 3.11, pip and make. Every target sets itself up; the stamp .venv/.ok says that it has.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
EXTRAS ?= test,docs,notebooks
BIN := .venv/bin
RUN ?= runs/digits
WORKERS ?= 2
PYTEST := JAX_PLATFORMS=cpu $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
export UV_PYTHON_DOWNLOADS = never

.PHONY: setup digits experiments test test-slow check lint types docs notebooks matrix bench ci constraints clean

setup: .venv/.ok

# constraints.txt is the exact tested set, for Python 3.11; other versions resolve within pyproject's ranges.
.venv/.ok: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "gendyn needs Python 3.11 or newer, but $(PYTHON) is " + sys.version.split()[0] + "; use make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q uv || true
	constraint=$$($(BIN)/python -c 'import sys; print("-c constraints.txt" if sys.version_info[:2] == (3, 11) else "")'); \
	if [ -x $(BIN)/uv ]; then $(BIN)/uv pip install -q --python $(BIN)/python $$constraint -e ".[$(EXTRAS)]"; \
	else $(BIN)/python -m pip install -q $$constraint -e ".[$(EXTRAS)]"; fi
	touch $@

# The main job: train a model of handwritten digits, draw from it, measure what it draws.
digits: .venv/.ok
	$(BIN)/gendyn train digits_edm --out $(RUN)
	$(BIN)/gendyn sample $(RUN)
	$(BIN)/gendyn evaluate $(RUN)

# Long experiments, one target each: a target is a command line that resumes, so `make experiments` goes on where it stopped.
# To add one, write its target and its name here. MNIST is a folder with train.parquet and test.parquet; `make -k
# experiments` passes over those that need it where it is absent.
MNIST ?= data/mnist
EXPERIMENTS := reflow_mixture digits_dynamics pfgmpp_digits consistency_digits reflow_mnist interpolant_two_sets restoration_mnist \
	transfer_mlp transfer_dit_mnist transfer_depth weight_decay_rules

experiments: $(EXPERIMENTS:%=experiment-%)

experiment-reflow_mixture: .venv/.ok
	$(BIN)/gendyn train reflow_mixture --out runs/reflow_mixture
	$(BIN)/gendyn reflow runs/reflow_mixture --out runs/reflow_mixture/reflow --rounds 2 --pairs 20000 --nfe 50 \
		--distill 1 --measured 4096 --batch 2048

experiment-digits_dynamics: .venv/.ok
	JAX_PLATFORMS=cpu $(BIN)/python -m benchmarks.digits_dynamics --runs runs/dynamics

experiment-pfgmpp_digits: .venv/.ok
	JAX_PLATFORMS=cpu $(BIN)/python -m benchmarks.pfgmpp_robustness --runs runs/pfgmpp

experiment-consistency_digits: .venv/.ok
	$(BIN)/gendyn train consistency_digits --out runs/consistency
	$(BIN)/gendyn evaluate runs/consistency --nfe 2

experiment-reflow_mnist: .venv/.ok
	$(BIN)/gendyn train reflow_mnist --data $(MNIST) --out runs/reflow_mnist
	$(BIN)/gendyn reflow runs/reflow_mnist --out runs/reflow_mnist/reflow --rounds 1 --pairs 20000 --nfe 50 --distill 1

experiment-interpolant_two_sets: .venv/.ok
	$(BIN)/gendyn train interpolant_two_sets --data $(MNIST) --out runs/two_sets
	$(BIN)/python -m experiments.interpolant_two_sets runs/two_sets

experiment-restoration_mnist: .venv/.ok
	$(BIN)/gendyn train restoration_mnist --data $(MNIST) --out runs/restoration
	$(BIN)/python -m experiments.restoration_mnist runs/restoration

# Under a rule and under its control; the same grids, which were fixed before looking.
TRANSFER := $(BIN)/gendyn transfer
experiment-transfer_mlp: .venv/.ok
	$(TRANSFER) transfer_mlp --over width=32,64,128,256,512 --base 64 --sweep learning_rate=2^-13..2^-4 --out runs/transfer_mlp
	$(TRANSFER) transfer_mlp --over width=32,64,128,256,512 --base 64 --sweep learning_rate=2^-13..2^-4 --rule sp \
		--out runs/transfer_mlp_sp

experiment-transfer_dit_mnist: .venv/.ok
	$(TRANSFER) transfer_dit_mnist --data $(MNIST) --over width=32,64,128,256 --repeats 3 --sweep learning_rate=2^-11..2^-4 \
		--out runs/transfer_dit_mnist
	$(TRANSFER) transfer_dit_mnist --data $(MNIST) --over width=32,64,128,256 --repeats 3 --sweep learning_rate=2^-13..2^-5 \
		--rule sp --out runs/transfer_dit_mnist_sp

experiment-transfer_depth: .venv/.ok
	$(TRANSFER) transfer_depth --over depth=2,4,8,16,32 --base 2 --sweep learning_rate=2^-12..2^-5 --out runs/transfer_depth
	$(TRANSFER) transfer_depth --over depth=2,4,8,16,32 --base 2 --sweep learning_rate=2^-12..2^-5 --depth-rule none \
		--out runs/transfer_depth_none

experiment-weight_decay_rules: .venv/.ok
	for rule in independent naive robust; do $(TRANSFER) weight_decay_rules --over width=64,128,256,512 \
		--sweep weight_decay=2^-6..2^4 --decay $$rule --out runs/weight_decay_$$rule || exit 1; done

# The whole story: style, types, every test but the slow ones; docs build and notebook are among the tests.
test: lint types check

check: .venv/.ok
	$(PYTEST) -m "not slow"

test-slow: .venv/.ok
	$(PYTEST) -m slow

lint: .venv/.ok
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.ok
	$(BIN)/mypy

docs: .venv/.ok
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

notebooks: .venv/.ok
	$(PYTEST) tests/system/test_notebooks.py

# Rewrites the generated table in README.md from the lists of processes and samplers.
matrix: .venv/.ok
	$(BIN)/python docs/matrix.py

bench: .venv/.ok
	JAX_PLATFORMS=cpu $(BIN)/python -m benchmarks.sampler_overhead

ci: test

# The tested set, from the environment in which the tests have just passed (Python 3.11).
constraints: .venv/.ok
	@printf '%s\n' "# The exact set the tests ran with (Python 3.11), written by \`make constraints\`." > .venv/constraints.txt
	$(BIN)/python -m pip freeze --exclude-editable --exclude uv >> .venv/constraints.txt
	mv .venv/constraints.txt constraints.txt
	touch .venv/.ok

clean:
	rm -rf site build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .jax_cache *.egg-info
