"""Promises of jobs/registry."""
