"""Promises of app/platform."""
