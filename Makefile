# make train   trains baseline and half_mhe on the embedded digits, a few minutes on two cores
# make test    runs the whole suite on TensorFlow and JAX, and on PyTorch where it is installed
# make crash   kills every training program ten times, and compares what resumes with unbroken runs
# make lint    checks style, formatting and types
# make docs    builds the documentation into docs/_build/html, notebooks included
# make wheel   builds both distributions, checks them, and imports the wheel in an empty environment
#
# Each makes the virtual environment it needs. PYTHON picks the interpreter it is made with.

PYTHON ?= python3
VENV ?= .venv
# Tests and documentation run in as many processes; each takes some 2 GB.
JOBS ?= $(shell $(PYTHON) -c "import os; print(min(os.cpu_count() or 1, 4))")
PY := $(VENV)/bin/python
export TF_CPP_MIN_LOG_LEVEL ?= 3
# Each process of each backend would rewrite and compile all tests again.
export PYTHONDONTWRITEBYTECODE =

.PHONY: train test crash lint docs wheel venv clean

venv: $(VENV)/ready

$(VENV)/ready: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet --editable ".[tensorflow,jax,train,test]"
	touch $@

$(VENV)/docs: $(VENV)/ready
	$(PY) -m pip install --quiet --editable ".[docs]"
	touch $@

train: venv
	$(PY) benchmarks/digits.py

test: venv
	@set -e; \
	backends="tensorflow jax"; \
	if $(PY) -c "import torch" 2>/dev/null; then backends="$$backends torch"; fi; \
	for backend in $$backends; do \
		echo "== $$backend"; \
		KERAS_BACKEND=$$backend $(PY) -m pytest -n $(JOBS) --dist worksteal; \
	done

crash: venv
	OMP_NUM_THREADS=1 $(PY) tests/crash/kill.py --kills 10 --out log/crash

lint: venv
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

# Notebooks that did not change are not executed again.
docs: $(VENV)/docs
	$(PY) docs/run_notebooks.py
	$(PY) -m sphinx --fail-on-warning --keep-going --quiet --jobs $(JOBS) -b html docs docs/_build/html

# Keras itself cannot be imported without a backend, so one is added once it is clear that the
# wheel alone brings none.
wheel: venv
	rm -rf dist $(VENV)-wheel
	$(PY) -m build --outdir dist .
	$(PY) -m twine check --strict dist/*
	$(PYTHON) -m venv $(VENV)-wheel
	$(VENV)-wheel/bin/python -m pip install --quiet dist/*.whl
	! $(VENV)-wheel/bin/python -m pip freeze | grep -iE '^(tensorflow|jax|torch)'
	$(VENV)-wheel/bin/python -m pip install --quiet jax
	cd dist && KERAS_BACKEND=jax ../$(VENV)-wheel/bin/python -c \
		"import mhe; print('mhe', mhe.__version__, 'imports;', float(mhe.MHE()([[1.0, 0], [0, 1]])))"
	rm -rf $(VENV)-wheel

clean:
	rm -rf $(VENV) $(VENV)-wheel build dist docs/_build docs/api/generated *.egg-info
