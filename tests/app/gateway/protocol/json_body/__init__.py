"""Promises of app/gateway/protocol/json_body."""
