"""Promises of jobs/cli/models."""
