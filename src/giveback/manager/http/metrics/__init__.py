"""The daemon's metrics: one set of families, read by Prometheus or sent to an OpenTelemetry collector."""
