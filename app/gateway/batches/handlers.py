"""The handler of each route of files and batches; where a gateway has no place for files, each says so."""

from collections.abc import Mapping

from app.gateway.batches.batch_routes import BatchRoutes
from app.gateway.batches.file_routes import FileRoutes
from app.gateway.batches.message_batch_routes import MessageBatchRoutes
from app.gateway.batches.parts import BatchContext
from app.gateway.protocol.exchange import Exchange, Handler
from jobs.core.errors import Unsupported

PATHS = (
    "/v1/files",
    "/v1/files/{id}",
    "/v1/files/{id}/content",
    "/v1/batches",
    "/v1/batches/{id}",
    "/v1/batches/{id}/cancel",
    "/v1/messages/batches",
    "/v1/messages/batches/{id}",
    "/v1/messages/batches/{id}/results",
    "/v1/messages/batches/{id}/cancel",
)


def batch_handlers(context: BatchContext | None) -> Mapping[str, Handler]:
    """The handlers, by the path of their entry in the table.

    Args:
        context: what they need; None where this gateway has no place for files.

    """
    if context is None:
        return dict.fromkeys(PATHS, _absent)
    files, batches, messages = FileRoutes(context), BatchRoutes(context), MessageBatchRoutes(context)
    answers: tuple[Handler, ...] = (
        files.all,
        files.one,
        files.content,
        batches.all,
        batches.one,
        batches.cancel,
        messages.all,
        messages.one,
        messages.results,
        messages.cancel,
    )
    return dict(zip(PATHS, answers, strict=True))


async def _absent(exchange: Exchange) -> None:
    raise Unsupported(
        f"{exchange.entry.path} is not served here: this gateway has no place for files of batches",
        hint="`ollama-modal up` and a deployment have one",
    )
