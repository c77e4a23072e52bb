"""Bodies that are wrong below their first level, or only look so, and what a real Ollama said of each.

It was asked for a model that it does not have: those that it takes it answered with a 404.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class DeepBody:
    """A body without its model; `text` is what it is refused with, None for one that is taken."""

    path: str
    body: dict[str, Any]
    text: str | None

    def __str__(self) -> str:
        return f"{self.path} {json.dumps(self.body)[:80]}"


@cache
def deep_bodies() -> tuple[DeepBody, ...]:
    """All of them."""
    rows = json.loads(Path(__file__).with_suffix(".json").read_text())
    return tuple(DeepBody(*row) for row in rows)
