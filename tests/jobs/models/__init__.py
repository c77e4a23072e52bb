"""Promises of jobs/models."""
