"""Every route that Ollama's server registers (server/routes.go:1876-1926), those that other engines have beside them,
and some that clients ask for.

passed    goes to the tier that the model belongs to, byte for byte, if the engine there speaks it (`app.engines`)
here      is answered by the gateway; no server is asked. What answers GET answers HEAD, also where Ollama does not
job       becomes a job of the ledger
refused   is answered 403 with the reason
unserved  is answered 501 with the reason: no engine has such a route either, but clients ask for it

A path is looked up after `clean`: a doubled or trailing slash is forgiven, and nothing else is. The table stands in
app/README.md too; a test compares the two.
"""

import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from app.engines.ollama import COUNTS

RouteAction = Literal["passed", "here", "job", "refused", "unserved"]
Speech = Literal["ollama", "openai", "anthropic"]
KeyScope = Literal["chat", "admin"]


@dataclass(frozen=True)
class RouteEntry:
    """One path, and what is done with it. A part in braces stands for one segment, or for all that follow."""

    methods: tuple[str, ...]
    path: str
    action: RouteAction
    scope: KeyScope = "chat"
    why: str = ""
    is_streamed: bool = False
    """Its body is handed on as it comes, and never here as a whole."""

    @cached_property
    def speech(self) -> Speech:
        return speech_of(self.path)


def speech_of(path: str) -> Speech:
    """Which of the three dialects errors of this path are worded in."""
    if path.startswith("/v1/"):
        return "anthropic" if path.startswith("/v1/messages") else "openai"
    return "openai" if path == "/tokenize" else "ollama"  # which is llama.cpp's own, with errors in OpenAI's shape


_ACCOUNT = "this service has no account at ollama.com: nobody signs in to it, and nothing is pushed from it"
_CLOUD = "nothing is asked of ollama.com from here"
_MAKES = "no model is made or saved here; models come from registries by a pull, whole and hashed"

TABLE: tuple[RouteEntry, ...] = (
    RouteEntry(("GET", "HEAD"), "/", "here"),
    RouteEntry(("GET", "HEAD"), "/api/version", "here"),
    RouteEntry(("GET", "HEAD"), "/api/tags", "here"),
    RouteEntry(("GET", "HEAD"), "/api/ps", "here", why="from the servers' own reports, and what was seen here since"),
    RouteEntry(("GET", "HEAD"), "/api/status", "here", why="the cloud is switched off, always"),
    RouteEntry(
        ("POST",), "/api/show", "here", why="from the weights; `verbose` with what only a server knows is passed"
    ),
    RouteEntry(("POST",), "/api/generate", "passed"),
    RouteEntry(("POST",), "/api/chat", "passed"),
    RouteEntry(("POST",), "/api/embed", "passed"),
    RouteEntry(("POST",), "/api/embeddings", "passed"),
    RouteEntry(("POST",), "/api/pull", "job", scope="admin", why="with Ollama's own progress frames"),
    RouteEntry(("DELETE",), "/api/delete", "job", scope="admin"),
    RouteEntry(("POST",), "/api/copy", "here", scope="admin", why="another name for the model; no weights are copied"),
    RouteEntry(("POST",), "/api/create", "refused", scope="admin", why=_MAKES),
    RouteEntry(("POST",), "/api/push", "refused", scope="admin", why="nothing is pushed from here"),
    RouteEntry(("POST", "HEAD"), "/api/blobs/{digest}", "refused", scope="admin", why=_MAKES),
    RouteEntry(("POST",), "/api/me", "refused", why=_ACCOUNT),
    RouteEntry(("POST",), "/api/signout", "refused", why=_ACCOUNT),
    RouteEntry(("DELETE",), "/api/user/keys/{key}", "refused", why=_ACCOUNT),
    RouteEntry(("POST",), "/api/experimental/web_search", "refused", why=_CLOUD),
    RouteEntry(("POST",), "/api/experimental/web_fetch", "refused", why=_CLOUD),
    RouteEntry(("GET",), "/api/experimental/model-recommendations", "refused", why=_CLOUD),
    RouteEntry(("GET", "HEAD"), "/v1/models", "here"),
    RouteEntry(("GET", "HEAD"), "/v1/models/{model}", "here", why="names with a slash work too"),
    RouteEntry(("POST",), "/v1/chat/completions", "passed"),
    RouteEntry(("POST",), "/v1/completions", "passed"),
    RouteEntry(("POST",), "/v1/embeddings", "passed"),
    RouteEntry(("POST",), "/v1/responses", "passed"),
    RouteEntry(("POST",), "/v1/audio/transcriptions", "passed", why="a form; its `model` field decides"),
    RouteEntry(("GET", "HEAD", "POST"), "/v1/files", "here", why="a form with `purpose=batch`", is_streamed=True),
    RouteEntry(("GET", "HEAD", "DELETE"), "/v1/files/{id}", "here"),
    RouteEntry(("GET", "HEAD"), "/v1/files/{id}/content", "here", why="the whole, or a `Range` of it"),
    RouteEntry(("GET", "HEAD", "POST"), "/v1/batches", "here"),
    RouteEntry(("GET", "HEAD"), "/v1/batches/{id}", "here"),
    RouteEntry(("POST",), "/v1/batches/{id}/cancel", "here"),
    RouteEntry(("POST",), "/v1/messages", "passed"),
    RouteEntry(("POST",), "/v1/messages/count_tokens", "passed"),
    RouteEntry(("GET", "HEAD", "POST"), "/v1/messages/batches", "here", is_streamed=True),
    RouteEntry(("GET", "HEAD", "DELETE"), "/v1/messages/batches/{id}", "here"),
    RouteEntry(("GET", "HEAD"), "/v1/messages/batches/{id}/results", "here", why="lines of JSON, once it has ended"),
    RouteEntry(("POST",), "/v1/messages/batches/{id}/cancel", "here"),
    RouteEntry(("POST",), "/v1/rerank", "passed", why="the order of `documents` by a `query`, of a model that ranks"),
    RouteEntry(("POST",), "/tokenize", "passed", why="the tokens of `content`, by the model that its `model` names"),
    RouteEntry(("POST",), "/api/tokenize", "unserved", why=COUNTS),
)

_EXACT = {entry.path: entry for entry in TABLE if "{" not in entry.path}
_BELOW: dict[str, list[RouteEntry]] = defaultdict(list)
"""Entries with braces, by what stands before those; of entries with the same, the longest path first."""
for _entry in sorted(TABLE, key=lambda entry: -len(entry.path)):
    if "{" in _entry.path:
        _BELOW[_entry.path.partition("{")[0]].append(_entry)

_ONE_SEGMENT = "{id}"
"""In these braces stands exactly one; in others all that follows, since names of models have slashes."""


def clean(path: str) -> str:
    """Without doubled slashes and without one at the end. Dots are left to find nothing."""
    if "//" in path:
        path = re.sub(r"/{2,}", "/", path)
    return path.rstrip("/") or "/"


def find(path: str) -> tuple[RouteEntry, str] | None:
    """The entry of a clean path, and what stands in its braces."""
    if entry := _EXACT.get(path):
        return entry, ""
    for prefix, entries in _BELOW.items():
        if path.startswith(prefix):
            below = path.removeprefix(prefix)
            return next(((entry, inside) for entry in entries if (inside := _inside(entry, below))), None)
    return None


def _inside(entry: RouteEntry, below: str) -> str:
    """What stands in the braces of this entry, of what stands below its beginning; empty if it is not its path."""
    _, _, rest = entry.path.partition("}")
    inside = below.removesuffix(rest)
    is_one = _ONE_SEGMENT not in entry.path or "/" not in inside
    return inside if below.endswith(rest) and is_one else ""


def meant_by(path: str) -> str:
    """The path that a client meant whose base URL is wrong, as `/api/chat` by `/v1/api/chat`; empty if none is likely.

    It is the longest end of the path that is a path of the table, or is one behind `/v1`.
    """
    parts = path.split("/")[1:]
    if len(parts) > _MOST_PARTS:
        return ""
    ends = ["/" + "/".join(parts[at:]) for at in range(len(parts))]
    return next((each for end in ends for each in (end, f"/v1{end}") if each in _EXACT), "")


_MOST_PARTS = 12


def base_url_hint(meant: str) -> str:
    """What the base URL of that client should be."""
    api, base = {
        "ollama": ("Ollama's API", "the address alone, as in http://HOST:PORT"),
        "openai": ("OpenAI's API", "the address and /v1 once, as in http://HOST:PORT/v1"),
        "anthropic": ("Anthropic's API", "the address alone, as in http://HOST:PORT"),
    }[speech_of(meant)]
    return f"{meant} is; the base URL of clients of {api} is {base}"
