"""Promises of app/gateway/ops."""
