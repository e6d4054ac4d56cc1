"""Pure placement optimiser: cost tables in, Pareto front and chosen point out. No I/O, clock, thread or global state."""
