"""Runtimes: what the agent knows of each way to run models, one entry a backend, without importing any of them."""
