"""Files and databases: YAML with line numbers, atomic state, the outbox."""
