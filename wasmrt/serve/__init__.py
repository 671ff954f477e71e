"""wasmrt serve: the page, and models by range."""
