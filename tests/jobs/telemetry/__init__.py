"""Promises of jobs/telemetry."""
