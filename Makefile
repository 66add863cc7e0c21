# Two commands do all the set-up: `make demo` and `make test`. Each makes .venv first if it is not there.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
DEMO_DATA := data/digits
DEMO_CONFIG := launch/configs/digits.yaml

# many images of containers forbid bytecode; as pip writes none here, every process would compile all that it imports anew
unexport PYTHONDONTWRITEBYTECODE

AUDIT := $(BIN)/pip-audit --skip-editable --progress-spinner off

# a worker per core; all tests of a file in one, because they share what the file trains
PARALLEL := -n auto --maxprocesses 8 --dist loadfile

DOCS_WARNINGS := -W --keep-going --nitpicky

.PHONY: venv demo docs test test-package test-services test-slurm lint advisories audit clean

venv: $(VENV)/.installed

# torch goes in by itself first, so that nothing that needs it can pull in another build
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile -c constraints.txt torch
	$(BIN)/pip install --quiet --no-compile -c constraints.txt -e '.[dev]'
	touch $@

$(DEMO_DATA)/manifest.json: | venv
	$(BIN)/matl-data example digits --out $(DEMO_DATA)

demo: venv $(DEMO_DATA)/manifest.json
	$(BIN)/matl-doctor --config $(DEMO_CONFIG) --ranks 2
	ACCELERATE_USE_CPU=true $(BIN)/accelerate launch --config_file launch/accelerate/cpu.yaml launch/train.py --config $(DEMO_CONFIG)

test: venv lint advisories
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow and not docs_heavy and not package and not slurm and not browser and not services"

# builds a wheel and trains with it outside the repository
test-package: venv
	$(BIN)/python -m pytest -m package

# the site, in build/docs/index.html; it fetches nothing, and a warning is an error
docs: venv
	$(BIN)/python -m sphinx $(DOCS_WARNINGS) -b html docs build/docs

# needs Chromium and PostgreSQL (Debian: chromium, postgresql)
test-services: venv
	$(BIN)/python -m pytest -m "browser or services"

# needs SLURM_CONF and Slurm's commands: eval "$$(tests/slurm/lab up DIR)"
test-slurm: venv
	$(BIN)/python -m pytest -m slurm

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# names installed packages with known vulnerabilities; only `audit` fails, so that a new advisory does not break a build
advisories: venv
	-@$(AUDIT) 2>&1 | awk '/could not be audited/ {n++; next} {print} END {print "audit: " n + 0 " packages could not be looked up"}'

audit: venv
	$(AUDIT)

clean:
	rm -rf $(DEMO_DATA) runs
