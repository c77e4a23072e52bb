"""Promises of jobs/ollama."""
