"""All of it in one app: `modal deploy -m app.deploy`.

A wrong fleet.toml is refused while this is imported, before anything is created.
"""

from app import endpoint, jobs, telling, warming
from app.resources import app

PARTS = (endpoint, jobs, telling, warming)
"""Importing a part registers what it has on the app."""

__all__ = ["PARTS", "app"]
