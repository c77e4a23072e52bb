"""Promises of app/gateway/catalog."""
