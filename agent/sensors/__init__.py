"""Sensors: reads temperatures, power and energy of this board. Absence and failure are results, never exceptions."""
