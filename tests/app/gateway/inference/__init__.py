"""Promises of app/gateway/inference."""
