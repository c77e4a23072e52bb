"""Tiny Modal apps that try one thing each; `tests/modal/test_platform.py` deploys and runs them."""
