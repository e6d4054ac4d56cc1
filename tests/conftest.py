"""Hypothesis without a per-example deadline: a busy board is no reason for a property to fail."""

from hypothesis import settings

settings.register_profile("board", deadline=None)
settings.load_profile("board")
