"""What real client libraries send: `scripts/clients --record tests/support/client_bodies.json` records it anew."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("client_bodies.json")
MODEL, THINKER, EMBEDDER = "llama3.2:1b", "qwen3:0.6b", "nomic-embed-text"
"""Those that the bodies ask for, beside one that is not there."""
_INFERENCE = (
    "/api/chat", "/api/generate", "/api/embed", "/api/embeddings", "/v1/chat/completions", "/v1/completions",
    "/v1/embeddings", "/v1/responses", "/v1/messages",
)  # fmt: skip


@dataclass(frozen=True)
class ClientBody:
    """One request for inference, as a client sent it."""

    client: str
    path: str
    body: dict[str, Any]

    @property
    def is_for_one_that_is_here(self) -> bool:
        """Whether it asks for a model of ours: the others are asked for on purpose."""
        return str(self.body["model"]).removesuffix(":latest") in (MODEL, THINKER, EMBEDDER)

    def __str__(self) -> str:
        return f"{self.client} {self.path} {json.dumps(self.body)[-40:]}"


def client_bodies() -> list[ClientBody]:
    """Each body once, under the first client that sent it."""
    found: dict[tuple[str, str], ClientBody] = {}
    for each in json.loads(TABLE.read_text("utf-8")):
        path = each["path"].partition("?")[0]
        if each["method"] == "POST" and path in _INFERENCE:
            found.setdefault((path, json.dumps(each["body"])), ClientBody(each["client"], path, each["body"]))
    return list(found.values())
