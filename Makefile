# make demo and make test do all of their own set-up in .venv, and skip it when nothing has changed.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo web test check acceptance clean

demo:  ## generate a story with the bundled model
	@$(PYTHON) tools/setup.py demo
	@$(BIN)/wasmrt run -p "Once upon a time" -n 300 --temp 0.5 --seed 1

web:  ## build the page and serve it to a browser here; ARGS="--port 8500 models/" goes to wasmrt serve
	@$(PYTHON) tools/setup.py web
	@$(BIN)/python tools/build_web.py
	@$(BIN)/wasmrt serve --open $(ARGS)

test:  ## lint, types and all tests
	@$(PYTHON) tools/setup.py test
	@$(BIN)/python tools/check.py

check: test

acceptance:  ## measure models of real size (makes 5 GB of them in build/models); ARGS="--no-large ROW ..." goes to the tool
	@$(PYTHON) tools/setup.py test
	@$(BIN)/python tools/acceptance.py $(ARGS)

clean:  ## remove what set-up and builds made
	rm -rf .venv dist build wasmrt/device/wasm .pytest_cache .mypy_cache .ruff_cache .hypothesis
