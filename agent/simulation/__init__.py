"""Simulation: scenarios answered by the cost model, on boards one does not have."""
