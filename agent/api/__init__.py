"""The local HTTP edge; the only place with an event loop."""
