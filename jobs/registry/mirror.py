"""A pull-through mirror: one registry that is asked in place of all others, named by an environment variable.

On one machine `up` reads it; for a deployment it is read where `modal deploy` or `modal run` runs, and goes along in
the image.
"""

from collections.abc import Mapping

from jobs.core.errors import BadRequest

VARIABLE = "OLLAMA_MODAL_REGISTRY"


def mirrors(environ: Mapping[str, str]) -> dict[str, str]:
    """What `Registry(mirrors=…)` takes; empty when no mirror is named.

    Raises:
        BadRequest: it is no address.

    """
    url = environ.get(VARIABLE, "").rstrip("/")
    if not url:
        return {}
    if not url.startswith(("http://", "https://")):
        raise BadRequest(f"{VARIABLE} {url!r} is no address", hint="it looks like http://127.0.0.1:5000")
    return {"*": url}
