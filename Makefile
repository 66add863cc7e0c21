# Two commands do all the set-up: `make demo` and `make test`. Each makes .venv first if it is not there.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
DEMO_DATA := data/digits
DEMO_CONFIG := launch/configs/digits.yaml

.PHONY: venv demo test lint clean

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
	ACCELERATE_USE_CPU=true $(BIN)/accelerate launch --config_file launch/accelerate/cpu.yaml launch/train.py --config $(DEMO_CONFIG)

test: venv lint
	$(BIN)/python -m pytest -m "not slow and not slurm"

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(DEMO_DATA) runs
