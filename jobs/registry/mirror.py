"""What the environment says of registries: a pull-through mirror, and a token for Hugging Face.

The mirror is one registry that is asked in place of all others. On one machine `up` reads it; for a deployment it is
read where `modal deploy` or `modal run` runs, and goes along in the image. The token is the operator's; a deployment
has it from a secret (`app.resources.HF_SECRET`).
"""

import re
from collections.abc import Mapping

from jobs.core.errors import BadRequest

VARIABLE = "OLLAMA_MODAL_REGISTRY"

HF_TOKEN = "HF_TOKEN"  # noqa: S105 - the variable's name

HUGGING_FACE = frozenset({"hf.co", "huggingface.co"})

_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}")


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


def tokens(environ: Mapping[str, str]) -> dict[str, str]:
    """What `Registry(tokens=…)` takes; empty when there is none.

    Raises:
        BadRequest: it can be no token; what it is, is not told.

    """
    token = environ.get(HF_TOKEN, "").strip()
    if not token:
        return {}
    if not _TOKEN.fullmatch(token):
        raise BadRequest(
            f"{HF_TOKEN} holds no token", hint="it is one word, as hf_…, from huggingface.co/settings/tokens"
        )
    return dict.fromkeys(HUGGING_FACE, token)
