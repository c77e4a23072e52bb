"""All of it in one app: `modal deploy -m app.deploy`.

A wrong fleet.toml is refused while this is imported, before anything is created.
"""

from app import endpoint, jobs
from app.deploy_refusals import tell
from app.deployment import functions_with_secrets
from app.deployment.batches import functions as batch_functions
from app.fleet.effect_notes import in_a_deployment
from app.fleet.schema import declared
from app.gateway import deployed
from app.resources import app

PARTS = (batch_functions, deployed, endpoint, functions_with_secrets, jobs)
"""Importing a part registers what it has on the app."""

__all__ = ["PARTS", "app"]

tell(in_a_deployment(declared()))
