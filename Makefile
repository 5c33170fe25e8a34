# Every target makes or reuses .venv and installs what it needs; nothing by hand before it.
PYTHON ?= python3
VENV := .venv
CLIENT := .venv-mediapipe
WHEEL := .venv-wheel
DOCS := .venv-docs
BIN := $(VENV)/bin
WORKERS := --numprocesses auto --maxprocesses 4 --dist worksteal
# Tests compile much and compute little.
QUICK_XLA := --xla_backend_optimization_level=0
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: demo dist docs notebooks pair test test-environments coverage test-slow lint format bench clean

demo: $(VENV)/.demo  ## the whole job on handwritten digits: train, quantise, export, verify
	$(BIN)/mnv4 demo --out demo

test: test-environments  ## the test suite, on TensorFlow and then on JAX
	MEDIAPIPE_PYTHON=$(CLIENT)/bin/python $(BIN)/pytest $(WORKERS)
	KERAS_BACKEND=jax XLA_FLAGS=$(QUICK_XLA) $(BIN)/pytest $(WORKERS) -m "not tensorflow and not once and not slow"

coverage: test-environments  ## the suite on TensorFlow, a quarter slower, and what it leaves out
	MEDIAPIPE_PYTHON=$(CLIENT)/bin/python $(BIN)/pytest $(WORKERS) --cov

test-slow: test-environments $(VENV)/.slow  ## the checks that take minutes each
	MEDIAPIPE_PYTHON=$(CLIENT)/bin/python $(BIN)/pytest -m slow

test-environments:  # side by side
	$(MAKE) --no-print-directory --jobs=2 $(VENV)/.test $(CLIENT)/.done

lint: $(VENV)/.lint  ## formatting and static checks
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(VENV)/.lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.demo  ## side-by-side runs; prints ratios
	$(BIN)/python benchmarks/latency.py
	$(BIN)/python benchmarks/qat.py

dist: $(VENV)/.release  ## wheel and sdist; the wheel, in an environment of its own, runs the README's example
	rm -rf dist $(WHEEL)
	$(BIN)/python -m build --outdir dist
	$(PYTHON) -m venv $(WHEEL)
	$(WHEEL)/bin/python -m pip install --quiet --no-compile "$$(echo dist/*.whl)[demo]"
	awk '/^```python/ {code = 1; next} /^```/ {if (code) exit} code' README.md > dist/example.py
	cd dist && ../$(WHEEL)/bin/python example.py && ../$(WHEEL)/bin/mnv4 check digits.tflite

docs: $(DOCS)/.done  ## the documentation as a site, in site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --quiet --strict --site-dir site

notebooks: $(VENV)/.notebooks  ## all notebooks in full, with their outputs, in executed/
	rm -rf executed && mkdir executed && cp notebooks/*.ipynb executed
	$(BIN)/pytest -c /dev/null --rootdir executed --nbmake --nbmake-timeout 1800 --overwrite --durations 0 executed

pair: $(VENV)/.notebooks  ## brings the two forms of each notebook, .py and .ipynb, to the newer one's state
	$(BIN)/jupytext --sync notebooks/*.ipynb

clean:
	rm -rf $(VENV) $(CLIENT) $(WHEEL) $(DOCS) demo build dist site executed *.egg-info .coverage .pytest_cache .ruff_cache

# What is compiled is what is imported: of TensorFlow little, and compiling all of it would take a minute.
# The stamp of an extra is newer than setup.cfg once the extra is installed.
$(VENV)/.%: setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --editable ".[$*]"
	touch $@

# Linting needs no package, only its tools.
$(VENV)/.lint: setup.cfg
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$$(sed -n 's/^ *\(ruff==.*\)/\1/p' setup.cfg)"
	touch $@

# MediaPipe cannot share an environment with TFMOT (absl-py).
$(CLIENT)/.done: setup.cfg
	test -x $(CLIENT)/bin/python || $(PYTHON) -m venv $(CLIENT)
	$(CLIENT)/bin/python -m pip install --quiet --no-compile "$$(sed -n 's/^ *\(mediapipe>=.*\)/\1/p' setup.cfg)"
	touch $@

# The site is made without running the package: its tools are enough.
$(DOCS)/.done: setup.cfg
	test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet $$(sed -n '/^docs =/,/^[^ ]/s/^    \([^#]*\)$$/\1/p' setup.cfg)
	touch $@
