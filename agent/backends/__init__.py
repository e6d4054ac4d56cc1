"""Runtime adapters and the lanes (child processes) they live in."""
