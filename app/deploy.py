"""All of it in one app: `modal deploy -m app.deploy`.

A wrong fleet.toml is refused while this is imported, before anything is created.
"""

from jobs.http.libraries_alone import import_libraries_alone

import_libraries_alone()

from app import endpoint, jobs  # noqa: E402 - without what nobody here uses of libraries
from app.deploy_refusals import tell  # noqa: E402
from app.deployment import functions_with_secrets  # noqa: E402
from app.deployment.batches import functions as batch_functions  # noqa: E402
from app.fleet.effect_notes import in_a_deployment  # noqa: E402
from app.fleet.schema import declared  # noqa: E402
from app.gateway import deployed  # noqa: E402
from app.resources import app  # noqa: E402

PARTS = (batch_functions, deployed, endpoint, functions_with_secrets, jobs)
"""Importing a part registers what it has on the app."""

__all__ = ["PARTS", "app"]

tell(in_a_deployment(declared()))
