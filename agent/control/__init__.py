"""Pure deciders: `step(state, input, now_s) -> (state, actions)`. No I/O, clock, thread or logging; service acts."""
