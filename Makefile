# Two commands: `make demo` and `make test`. Each sets up what it needs.
# The tests run on two cores: those that start processes one after the other, the rest beside them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TB_VENV := .venv-tb
TBGW_VENV := .venv-tbgw

.PHONY: help demo test test-fast lint bench foreign proto config run clean

help:
	@echo "make demo       set up, then the whole path in one terminal, about a minute"
	@echo "make test       set up, then everything: format, lint, types, imports, all tests"
	@echo "make test-fast  the same without servers"
	@echo "make bench      every figure beside its limit"
	@echo "make foreign    the vendor's client SDK and gateway, each in an environment of its own, for the tests"
	@echo "make proto      regenerate gateway/cloud/pb from proto/"
	@echo "make config     regenerate config/gateway.yaml from the typed settings"

$(VENV)/run.done: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "edge-gateway needs Python 3.11 or newer; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "no venv module: install the Debian package python3-venv"; exit 1; }
	@echo "installing edge-gateway into $(VENV) …"
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/dev.done: $(VENV)/run.done
	@echo "installing what the tests need into $(VENV) …"
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

# The vendor's client SDK brings its own fork of paho: it lives alone, as on a user's device.
$(TB_VENV)/done: pyproject.toml
	@test -x $(TB_VENV)/bin/python || $(PYTHON) -m venv $(TB_VENV)
	@echo "installing the ThingsBoard client SDK into $(TB_VENV) …"
	@$(TB_VENV)/bin/pip install --quiet --disable-pip-version-check 'tb-mqtt-client==1.13.14' mmh3
	@touch $@

# The vendor's gateway installs what its connectors need with pip while it runs; here it finds it installed.
$(TBGW_VENV)/done: pyproject.toml
	@test -x $(TBGW_VENV)/bin/python || $(PYTHON) -m venv $(TBGW_VENV)
	@echo "installing the ThingsBoard IoT Gateway into $(TBGW_VENV) …"
	@$(TBGW_VENV)/bin/pip install --quiet --disable-pip-version-check \
	  'thingsboard-gateway==3.8.5' mmh3 'pymodbus==3.9.2' pyserial-asyncio
	@touch $@

foreign: $(TB_VENV)/done $(TBGW_VENV)/done

demo: $(VENV)/run.done
	@$(BIN)/edge-gateway demo $(ARGS)

run: $(VENV)/run.done
	$(BIN)/edge-gateway run --config config/gateway.yaml

lint: $(VENV)/dev.done
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(VENV)/dev.done foreign
	@sh tests/debian.sh
	$(MAKE) --no-print-directory lint
	$(BIN)/pytest -n 2 --dist loadgroup $(ARGS)

test-fast: $(VENV)/dev.done
	$(MAKE) --no-print-directory lint
	$(BIN)/pytest -n 4 --dist loadfile -m "not server and not slow" $(ARGS)

bench: $(VENV)/dev.done
	@sh tests/debian.sh
	$(BIN)/python -m bench $(ARGS)

proto: $(VENV)/dev.done
	$(BIN)/python proto/generate.py

config: $(VENV)/run.done
	$(BIN)/edge-gateway config-sample > config/gateway.yaml

nodes: $(VENV)/run.done
	$(BIN)/python -m gateway.rules.catalogue > docs/rule-nodes.md

clean:
	rm -rf $(VENV) $(TB_VENV) $(TBGW_VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
