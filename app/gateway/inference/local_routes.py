"""The routes that are answered without a server: lists, versions, and what a model is by its own files."""

from collections.abc import Callable, Mapping
from typing import Any

from app.gateway.catalog import ollama_lists as lists
from app.gateway.catalog.loaded_models import LoadedModels
from app.gateway.catalog.state import KnownState
from app.gateway.protocol.exchange import Exchange, Handler
from app.gateway.protocol.request import model_in, read_document
from jobs.core.errors import NotFound
from jobs.core.model_name import ModelName

TEXT = b"text/plain; charset=utf-8"

STATUS = {"cloud": {"disabled": True, "source": "env"}}


def handlers(known: KnownState, loaded: LoadedModels, passes: Handler, *, version: str) -> Mapping[str, Handler]:
    """The handler of each path of the table that is answered here.

    Args:
        known: what is known.
        loaded: what the servers have in memory.
        passes: asks a server, where what is known is not enough.
        version: of the Ollama that the servers run, while none has reported its own.

    """

    async def root(exchange: Exchange) -> None:
        await exchange.answer_bytes(lists.RUNNING.encode(), 200, TEXT)

    async def openai_model(exchange: Exchange) -> None:
        await exchange.answer(lists.openai_model(known, exchange.below.strip(), exchange.caller.may_use))

    async def ps(exchange: Exchange) -> None:
        await loaded.refresh()
        await exchange.answer(lists.ps(known, loaded.reports(), exchange.caller.may_use))

    async def show(exchange: Exchange) -> None:
        request = await read_document(exchange)
        name = ModelName.parse(model_in(request))
        exchange.caller.need_model(name)
        model = known.find(name)
        if model is None:
            raise NotFound(f"model {str(name)!r} not found", hint=f"pull it: `ollama-modal pull {name}`")
        if lists.cannot_show(model, request):
            await passes(exchange)
        else:
            await exchange.answer(lists.show(model, request))

    def answering(document: Callable[[Exchange], Any]) -> Handler:
        async def answer(exchange: Exchange) -> None:
            await exchange.answer(document(exchange))

        return answer

    return {
        "/": root,
        "/api/version": answering(lambda _: lists.version(known, version)),
        "/api/status": answering(lambda _: STATUS),
        "/api/tags": answering(lambda exchange: lists.tags(known, exchange.caller.may_use)),
        "/api/ps": ps,
        "/v1/models": answering(lambda exchange: lists.openai_models(known, exchange.caller.may_use)),
        "/v1/models/{model}": openai_model,
        "/api/show": show,
    }
