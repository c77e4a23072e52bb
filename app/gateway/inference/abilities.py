"""Requests for what a model cannot do, refused as Ollama refuses them before it loads the model.

What a model can do is told by its own files. Where they do not tell, or are not here, the server is asked.
"""

from app.gateway.protocol.refusals import Wants
from jobs.core.errors import BadRequest
from jobs.core.model_name import ModelName
from jobs.models.card import KnownModel
from jobs.ollama.request_types import go_quoted


def refuse(wants: Wants, asked: str, model: KnownModel | None) -> None:
    """Refuse what this model cannot do (ollama server/routes.go, GenerateHandler and ChatHandler).

    Args:
        wants: what it has to be able to do.
        asked: the model, as the caller named it.
        model: what is known of it.

    Raises:
        BadRequest: in Ollama's words.

    """
    abilities = model.card.abilities if model is not None and model.card is not None else None
    if not wants.verb or model is None or not abilities:
        return
    if wants.verb == "generate" and "image" in abilities:
        raise BadRequest("image generation models are not currently supported")
    if wants.thinks and "thinking" not in abilities:
        raise BadRequest(f"{go_quoted(asked)} does not support thinking")
    if "completion" not in abilities:
        raise BadRequest(f"{go_quoted(asked)} does not support {wants.verb}")
    for ability, is_wanted in (("tools", wants.tools), ("insert", wants.inserts)):
        if is_wanted and ability not in abilities:
            raise BadRequest(f"{_in_full(model.name)} does not support {ability}")


def _in_full(name: ModelName) -> str:
    host, namespace, model, tag = name.path
    return f"{host}/{namespace}/{model}:{tag}"
