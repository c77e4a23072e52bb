"""Promises of app/engines."""
