"""The routes that are answered without a server: lists, versions, and what the weights themselves tell of a model."""

from collections.abc import Callable, Mapping
from typing import Any

from app.gateway.catalog import ollama_lists as lists
from app.gateway.catalog.state import KnownState
from app.gateway.protocol import request as asked
from app.gateway.protocol.exchange import Exchange, Handler
from jobs.core.errors import NotFound
from jobs.core.model_name import ModelName

TEXT = b"text/plain; charset=utf-8"

STATUS = {"cloud": {"disabled": True, "source": "env"}}


def handlers(standing: KnownState, passes: Handler, *, version: str) -> Mapping[str, Handler]:
    """Who answers which path of the table.

    Args:
        standing: what is known.
        passes: asks a server, where what is known does not do.
        version: of the Ollama that the servers run, while none has told its own.

    """

    async def root(exchange: Exchange) -> None:
        await exchange.answer_bytes(lists.RUNNING.encode(), 200, TEXT)

    async def model(exchange: Exchange) -> None:
        await exchange.answer(lists.openai_model(standing, exchange.below, exchange.caller.may_use))

    async def show(exchange: Exchange) -> None:
        request = await asked.document(exchange)
        name = ModelName.parse(asked.model_in(request))
        exchange.caller.need_model(name)
        found = standing.find(name)
        if found is None:
            raise NotFound(f"model {str(name)!r} not found", hint=f"pull it: `ollama-modal pull {name}`")
        if lists.cannot_show(found, request):
            await passes(exchange)
        else:
            await exchange.answer(lists.show(found, request))

    def told(document: Callable[[Exchange], Any]) -> Handler:
        async def answer(exchange: Exchange) -> None:
            await exchange.answer(document(exchange))

        return answer

    return {
        "/": root,
        "/api/version": told(lambda _: lists.version(standing, version)),
        "/api/status": told(lambda _: STATUS),
        "/api/tags": told(lambda exchange: lists.tags(standing, exchange.caller.may_use)),
        "/api/ps": told(lambda exchange: lists.ps(standing, exchange.caller.may_use)),
        "/v1/models": told(lambda exchange: lists.openai_models(standing, exchange.caller.may_use)),
        "/v1/models/{model}": model,
        "/api/show": show,
    }
