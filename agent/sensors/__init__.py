"""Reads temperatures, power and energy of the board; converts to SI units once, where the raw value is met."""
