"""Promises of app/gateway/lines."""
