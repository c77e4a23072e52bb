"""Promises of jobs/cli/terminal."""
