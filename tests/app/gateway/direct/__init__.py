"""Promises of app/gateway/direct."""
