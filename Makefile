# make demo and make test do all of their own set-up in .venv, and skip it when nothing has changed.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check clean

demo:  ## generate a story with the bundled model
	@$(PYTHON) tools/setup.py demo
	@$(BIN)/wasmrt run -p "Once upon a time" -n 300 --temp 0.5 --seed 5

test:  ## lint, types and all tests
	@$(PYTHON) tools/setup.py test
	@$(BIN)/python tools/check.py

check: test

clean:  ## remove what set-up and builds made
	rm -rf .venv dist build wasmrt/device/wasm .pytest_cache .mypy_cache .ruff_cache .hypothesis
