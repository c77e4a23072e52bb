"""Promises of app/gateway."""
