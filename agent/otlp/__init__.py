"""OpenTelemetry: the metrics of /metrics, pushed to a collector (optional runtime)."""
