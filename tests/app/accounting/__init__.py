"""Promises of app/accounting."""
