"""Tiny Modal apps that try one thing each; `tests/test_platform.py` deploys and runs them."""
