# What CI runs, a person runs: make check, make docs, make test, make test-slow. Each target makes .venv on first use.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NODE := web/node_modules/.installed

.PHONY: install check docs figures page test test-slow test-fresh test-pythons plugin demo studio package audit lock clean

install: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $(STAMP)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	if command -v npm > /dev/null; then $(MAKE) --no-print-directory $(NODE) && cd web && npm run check && npm test && \
		npm run --silent proof; else echo "no node here: the page of the studio is not built anew"; fi

# The site, from docs/ and the docstrings, into build/docs; a link or a name that leads nowhere is an error. Needs no network.
docs: install
	$(BIN)/sphinx-build -W -n --keep-going -q -b html -d build/doctrees docs build/docs

# Pictures, help texts and outputs that README and docs show: made anew, and what was out of date is named. Trains models.
# One of them, or without writing: make figures ONLY="tiles help" or ONLY=--check
figures: install
	$(BIN)/python docs/figures.py $(ONLY)

# The page of the studio, from web/ into the package; its result is committed, so that nobody else needs node.
page: $(NODE)
	cd web && npm run check && npm run build

$(NODE): web/package-lock.json
	cd web && npm ci --silent --ignore-scripts
	touch $(NODE)

# Two processes: a test computes with one thread. The tests of a file stay together, so that they share its fixtures.
test: install
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

# What takes more than some seconds: processes killed at random, other processors' vectors, all sections of a data set.
test-slow: install
	$(BIN)/python -m pytest -m slow -n 2 --dist load

# Property tests with examples that no run had before. What fails prints how to repeat it.
test-fresh: install
	SEPTUM_HYPOTHESIS=fresh $(BIN)/python -m pytest -m hypothesis

# With every Python on this machine that Septum supports, each in an environment of its own; says which were found.
test-pythons:
	packaging/pythons.sh

# The plugin for napari, in an environment of its own: napari and Qt are nothing that Septum needs. Without a display its
# window is drawn into memory (xvfb); where there is none, the tests that need a window are skipped.
plugin: build/plugin/.installed
	build/plugin/bin/ruff check napari-septum
	cd napari-septum && ../build/plugin/bin/mypy
	build/plugin/bin/npe2 validate napari-septum
	cd napari-septum && $$(command -v xvfb-run > /dev/null && test -z "$$DISPLAY" && echo xvfb-run --auto-servernum) \
		../build/plugin/bin/python -m pytest

build/plugin/.installed: napari-septum/pyproject.toml requirements.lock
	$(PYTHON) -m venv build/plugin
	build/plugin/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock \
		'napari[pyqt6]>=0.6' npe2 pytest-qt editables
	build/plugin/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
		--editable . --editable napari-septum
	touch $@

demo: install
	$(BIN)/septum demo

# The page in the browser, on generated images of cells.
studio: install
	$(BIN)/septum demo --studio

# A wheel made of the source archive, installed with nothing but what it asks for, must run the demo.
package: install
	rm -rf build dist
	$(BIN)/hatchling build -t sdist
	mkdir -p build/source && tar -xzf dist/*.tar.gz -C build/source --strip-components 1
	cd build/source && ../../$(BIN)/hatchling build -t wheel -d ../../dist
	$(PYTHON) -m venv build/installed
	build/installed/bin/python -m pip install --quiet --disable-pip-version-check -c requirements.lock dist/*.whl
	build/installed/bin/python -m pip check
	cd build && installed/bin/septum demo -o demo

# Known vulnerabilities of what the lock pins; asks the Python Packaging Advisory Database.
audit:
	$(PYTHON) -m venv build/audit
	build/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	build/audit/bin/pip-audit -r requirements.lock --no-deps --disable-pip

# Pins anew, with the newest versions that pyproject.toml allows.
lock:
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip hatchling '.[dev]'
	build/lock/bin/python -m pip freeze --all --exclude septum --exclude pip | sed 's/+.*//' > requirements.lock

clean:
	rm -rf $(VENV) build dist web/node_modules docs/reference/api
