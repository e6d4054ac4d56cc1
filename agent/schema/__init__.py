"""Frozen schemas of every file and of the snapshot. Data only: nothing here computes, reads or writes."""
