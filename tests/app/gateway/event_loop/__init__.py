"""Promises of app/gateway/event_loop."""
