"""The board's side of its fleet: commands, desired state, bundles, telemetry."""
