"""GGUF: the file format that weights, vocabulary and settings come in."""
