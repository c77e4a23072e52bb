"""What the gateway asks of a server by itself: whether it is there, to have a model in memory, and which it has."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from app.engines.engine import ANSWERS_AT, LOADED_AT, LOADS_AT
from app.gateway.protocol.dialects import error_text
from app.gateway.protocol.headers import Header
from app.gateway.protocol.request import LoadSettings
from app.gateway.upstream.upstream_client import TierUpstream, UpstreamClient
from app.model_server.report import Loaded
from jobs.core.errors import NetworkTrouble, ServerTrouble
from jobs.core.model_name import ModelName
from jobs.ollama.responses import Running, listed_in

_MOST_TEXT = 64 * 1024

SESSION = b"modal-session-id"
"""What a caller sends by this name never comes so far: `app.gateway.protocol.headers`."""


@dataclass(frozen=True)
class Presence:
    """What a tier that was asked came to.

    Args:
        why_not: it cannot be used yet; empty when it answers.
        models: that the server which answered has in memory, where it was asked for them.

    """

    why_not: str = ""
    models: tuple[str, ...] = ()

    def has(self, model: str) -> bool:
        name = ModelName.parse(model)
        return any(map(name.is_called, self.models))


async def presence(client: UpstreamClient, *, path: str = ANSWERS_AT, session: Iterable[Header] = ()) -> Presence:
    """Whether the tier can be used. Asking is what wakes it.

    Args:
        client: the way there.
        path: what is asked for: a server that answers with its version answers with what it has loaded as well, and one
            way is as short as the other.
        session: as in `session_of`.

    Raises:
        ServerTrouble: a proxy in front of it refuses the gateway, which no waiting changes.

    """
    try:
        answer = await client.ask("GET", path, session)
    except NetworkTrouble as trouble:
        return Presence(str(trouble))
    try:
        text = await answer.whole(_MOST_TEXT)
    except NetworkTrouble as trouble:
        return Presence(str(trouble))
    finally:
        answer.close()
    if answer.status == 200:
        return Presence(models=_models_in(text) if path == LOADED_AT else ())
    why = f"it answers {answer.status} {error_text(text)[:200]}".strip()
    if answer.status in {401, 403, 407}:
        raise ServerTrouble(
            f"the way to {client.url} is closed to the gateway: {why}",
            hint="Modal's proxy wants a token that is allowed in this environment: secret `ollama-proxy-token`",
        )
    return Presence(why)


def _models_in(text: bytes) -> tuple[str, ...]:
    """None where it makes no sense: then each is asked for."""
    try:
        return tuple(Running.of(each).name for each in listed_in(json.loads(text)))
    except (ValueError, ServerTrouble):
        return ()


async def load(
    client: UpstreamClient, model: str, settings: LoadSettings, session: Iterable[Header] = ()
) -> tuple[int, str]:
    """Ask for an answer to nothing, which loads the model; status and error of it. `session` as in `session_of`."""
    options = {"options": dict(settings)} if settings else {}
    status, text = await _post(client, LOADS_AT, {"model": model, "stream": False, **options}, session)
    if status == 400 and "does not support" in text:  # it only embeds
        status, text = await _post(client, "/api/embed", {"model": model, "input": [], **options}, session)
    return status, text


def session_of(upstream: TierUpstream) -> tuple[Header, ...]:
    """A new session, as the header of each request that belongs to it; none where one server is all there is.

    Modal's proxy hashes it to lean a request towards one container, and promises no more than that
    (modal.com/docs/guide/sticky-sessions).
    """
    return ((SESSION, uuid4().hex.encode()),) if upstream.is_remote else ()


async def loaded(client: UpstreamClient) -> list[Loaded]:
    """What the server has in memory. On a platform this would wake it.

    Raises:
        NetworkTrouble: it does not answer.
        ServerTrouble: what it answers is no such list.

    """
    answer = await client.ask("GET", LOADED_AT)
    try:
        text = await answer.whole(_MOST_TEXT)
    finally:
        answer.close()
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ServerTrouble(f"the server answers {answer.status} with no list of what it has loaded") from error
    return [Loaded.of(Running.of(each)) for each in listed_in(document)]


async def _post(client: UpstreamClient, path: str, body: Mapping[str, Any], more: Iterable[Header]) -> tuple[int, str]:
    headers = [(b"content-type", b"application/json"), *more]
    answer = await client.ask("POST", path, headers, json.dumps(body).encode())
    try:
        text = await answer.whole(_MOST_TEXT)
    finally:
        answer.close()
    return answer.status, "" if answer.status == 200 else error_text(text)
