"""QEIL Edge Agent: places, runs, guards and measures models on the accelerators of one edge board."""

__version__ = "0.1.0"
