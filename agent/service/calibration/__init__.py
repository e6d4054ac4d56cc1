"""What calibrating a board takes: micro models through its lanes, power while they run, and the file that results."""
