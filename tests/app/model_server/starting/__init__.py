"""Promises of app/model_server/starting."""
