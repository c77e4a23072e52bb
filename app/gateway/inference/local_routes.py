"""The routes that are answered without a server: lists, versions, and what a model is by its own files."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from app.gateway.auth.keys import Caller
from app.gateway.catalog import ollama_lists as lists
from app.gateway.catalog.loaded_models import LoadedModels
from app.gateway.catalog.made_aliases import MadeAliases, copy_asked
from app.gateway.catalog.prepared_lists import PreparedLists
from app.gateway.catalog.state import KnownState
from app.gateway.event_loop.long_answers import json_in_thread
from app.gateway.inference.routing import missing_target
from app.gateway.protocol.exchange import JSON, Exchange, Handler
from app.gateway.protocol.request import model_in, read_document
from jobs.core.errors import NotFound
from jobs.core.model_name import ModelName
from jobs.models.model_settings import SettingsOf

TEXT = b"text/plain; charset=utf-8"

STATUS = {"cloud": {"disabled": True, "source": "env"}}


def handlers(
    known: KnownState,
    loaded: LoadedModels,
    passes: Handler,
    made_aliases: MadeAliases,
    settings: SettingsOf,
    *,
    version: str,
) -> Mapping[str, Handler]:
    """The handler of each path of the table that is answered here.

    Args:
        known: what is known.
        loaded: what the servers have in memory.
        passes: asks a server, where what is known is not enough.
        made_aliases: makes another name for a model.
        settings: what is set for a model.
        version: of the Ollama that the servers run, while none has reported its own.

    """
    prepared = PreparedLists(known)

    async def root(exchange: Exchange) -> None:
        await exchange.answer_bytes(lists.RUNNING.encode(), 200, TEXT)

    async def openai_model(exchange: Exchange) -> None:
        await exchange.answer(lists.openai_model(known, exchange.below.strip(), exchange.caller.may_use))

    async def ps(exchange: Exchange) -> None:
        await loaded.refresh()
        caller = exchange.caller
        running = await json_in_thread(lambda: lists.ps(known, loaded.reports(), caller.may_use))
        await exchange.answer_bytes(running, 200, JSON)

    async def show(exchange: Exchange) -> None:
        request = await read_document(exchange)
        name = ModelName.parse(model_in(request))
        model, alias = known.resolve(name)
        exchange.caller.need_model(model.name if model else alias.target if alias else name, asked_as=name)
        if model is None and alias is not None:
            raise missing_target(name, alias)
        if model is None:
            raise NotFound(f"model {str(name)!r} not found", hint=f"pull it: `ollama-modal pull {name}`")
        if lists.cannot_show(model, request):
            await passes(exchange)
        else:
            shown = await json_in_thread(lists.show, model, request, settings(model.name))
            await exchange.answer_bytes(shown, 200, JSON)

    return {
        "/": root,
        "/api/version": _answering(lambda _: lists.version(known, version)),
        "/api/status": _answering(lambda _: STATUS),
        "/api/tags": _prepared(prepared.tags),
        "/api/ps": ps,
        "/v1/models": _prepared(prepared.openai_models),
        "/v1/models/{model}": openai_model,
        "/api/show": show,
        "/api/copy": _copying(made_aliases),
    }


def _prepared(made: Callable[[Caller], Awaitable[bytes]]) -> Handler:
    async def answer(exchange: Exchange) -> None:
        await exchange.answer_bytes(await made(exchange.caller), 200, JSON)

    return answer


def _answering(document: Callable[[Exchange], Any]) -> Handler:
    async def answer(exchange: Exchange) -> None:
        await exchange.answer(document(exchange))

    return answer


def _copying(made_aliases: MadeAliases) -> Handler:
    async def copy(exchange: Exchange) -> None:
        source, destination = copy_asked(exchange.body)
        await asyncio.to_thread(made_aliases.make, exchange.caller, source, destination)
        await exchange.answer_bytes(b"", 200, TEXT)

    return copy
