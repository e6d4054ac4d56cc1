"""Pure placement optimiser: cost tables in, Pareto front and choice out. No I/O, clock, thread or global state."""
