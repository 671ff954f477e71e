"""The layer store: where weight bytes come from, where they lie, and when."""
