"""Composition: builds the agent from core and adapters, owns its threads and its mutable state."""
