"""The `qeil` command, one file per command group."""
