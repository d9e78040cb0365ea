# make serve   talk to the default model       make test    pass the tests
PORT ?= $(or $(HONED_PORT),8000)
MODEL ?= $(or $(HONED_MODEL),smollm2-135m-instruct)
PYTHON ?= python3
FUZZ_MINUTES ?= 5

.PHONY: serve setup test test-real test-node test-gpu check format fuzz clean

serve: .venv/.installed
	.venv/bin/honed serve --port $(PORT) --model $(MODEL)

setup: .venv/.installed

# One stamp: installing again costs seconds where nothing changed, and nothing where the stamp is newer.
.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("honed needs Python 3.11 or later: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	test -x .venv/bin/pip || $(PYTHON) -m venv .venv
	.venv/bin/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

test: .venv/.installed
	.venv/bin/pytest -m "not real_model and not node and not gpu"

test-real: .venv/.installed
	.venv/bin/honed pull smollm2-135m-instruct
	.venv/bin/pytest -m real_model

test-node: .venv/.installed
	.venv/bin/pytest -m node

test-gpu: .venv/.installed
	.venv/bin/pytest -m gpu

fuzz: .venv/.installed
	FUZZ_MINUTES=$(FUZZ_MINUTES) .venv/bin/python tests/fuzz.py

check: .venv/.installed .dev/honed
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

# mypy does not see the editable install's import hook, but it follows this link.
.dev/honed:
	mkdir -p .dev && ln -sfn .. .dev/honed

format: .venv/.installed
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

clean:
	rm -rf .venv .dev build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
