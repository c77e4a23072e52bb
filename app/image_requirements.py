"""The runtime part of `requirements.lock`, for the images: what the project itself needs, and what that needs.

Each line of the lock says for whom it is there (`# via`), so the part is found by following those, with the pins,
markers and hashes as they stand. The development tools stay behind; so does modal, which the platform brings along, and
the engine of one machine: the images have Ollama's.
"""

import re
from pathlib import Path

LOCK = Path(__file__).resolve().parent.parent / "requirements.lock"

_PROJECT = "ollama-modal (pyproject.toml)"


ENGINE = "xllamacpp"
"""What the extra `engine` brings."""


def runtime_part(text: str, without: frozenset[str] = frozenset({"modal", ENGINE})) -> str:
    """The blocks of a lock that the project needs at run time, as a requirements file."""
    blocks = {block.partition("==")[0]: block for block in re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]}
    wanted_by = {name: _via(block) for name, block in blocks.items() if name not in without}
    wanted: set[str] = set()
    while found := {name for name, by in wanted_by.items() if name not in wanted and by & (wanted | {_PROJECT})}:
        wanted |= found
    return "".join(block for name, block in blocks.items() if name in wanted)


def _via(block: str) -> frozenset[str]:
    """Who wants a package: `# via one`, or `# via` and a line for each."""
    comments = re.findall(r"^ +#(.*)$", block, flags=re.MULTILINE)
    return frozenset(line.removeprefix(" via").strip() for line in comments) - {""}
