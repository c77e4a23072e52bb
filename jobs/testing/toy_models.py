"""Models of toy weights, as a registry has them: real ones to every engine, of some tens of kilobytes each.

    toy          says the fixed phrase      toy:tools    calls the tool `weather`
    toy:endless  never ends by itself       toy:system   has a system prompt of its own
    toy-embed    embeds                     toy-rerank   ranks

One thread is all that they are worth; on a busy machine more of them wait for one another.
"""

import json
from functools import cache

from jobs.core.model_name import ModelName
from jobs.testing import toy_weights
from jobs.testing.models import LAYER_TYPE, SimLayer, SimModel, text

TOOL_CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}</tool_call>'

SYSTEM = "Be kind."

_LICENSE = text("license", "Toy weights for tests and demonstrations; they know nothing.\n")


def toy(name: str, weights: bytes, *capabilities: str, system: str = "", **parameters: object) -> SimModel:
    """A model of these weights."""
    layers = [SimLayer(f"{LAYER_TYPE}model", len(weights), text=weights), _LICENSE]
    layers += [text("system", system)] if system else []
    layers.append(text("params", json.dumps({"num_thread": 1, **parameters})))
    return SimModel(
        ModelName.parse(name),
        "llama" if "completion" in capabilities else "bert",
        "30K",
        "F32",
        tuple(layers),
        capabilities,
        context_length=toy_weights.CONTEXT,
        embedding_length=32,
    )


@cache
def all_toys() -> tuple[SimModel, ...]:
    """Each of them, made at the first question and then remembered."""
    tools = toy_weights.speaker(TOOL_CALL, template=toy_weights.TOOLS_TEMPLATE)
    return (
        toy("toy", toy_weights.speaker(), "completion"),
        toy("toy:tools", tools, "completion", "tools"),
        toy("toy:endless", toy_weights.speaker(endless=True), "completion"),
        toy("toy:system", toy_weights.speaker(), "completion", system=SYSTEM),
        toy("toy-embed", toy_weights.embedder(), "embedding"),
        toy("toy-rerank", toy_weights.reranker(), "embedding"),
    )
