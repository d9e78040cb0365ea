"""Continuous batching over any decoder-only transformers model. The server and training run on it."""
