"""An image by its tag and, when it is known, the digest of its bytes. A tag can be moved; a digest is the image.

What a digest is only a registry can tell, so none is shipped: a deployment without one says how it is found.
"""

import re

from jobs.core.errors import BadRequest


def pinned(tag: str, digest: str) -> str:
    """The image as `FROM` takes it.

    Raises:
        BadRequest: that is no digest. It would be refused anyway, but only minutes into a build.

    """
    if not digest:
        return tag
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise BadRequest(f"{digest!r} is no digest of {tag}", hint=f"it looks like sha256:4f0c…; {_how_to_find(tag)}")
    return f"{tag}@{digest}"


def warn_unpinned(image: str) -> None:
    """Warn whoever deploys an image that is found by its tag alone."""
    from jobs.cli.output import say  # noqa: PLC0415 - `app.resources` imports this file in every container, and is cheap

    if "@" not in image:
        say(f"warning: the image {image} is found by its tag, and a tag can be moved")
        say(f"hint: to pin its bytes, {_how_to_find(image)}: write it into OLLAMA_DIGEST in app/resources.py")


def _how_to_find(tag: str) -> str:
    return f"`docker buildx imagetools inspect {tag}` prints the digest"
