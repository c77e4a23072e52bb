"""Where the requests for a model go, found once for many."""

from typing import TYPE_CHECKING

from app.gateway.inference import prompt_truncation
from app.gateway.inference.proxy import Proxy
from app.gateway.inference.routing import Route
from app.gateway.protocol.headers import written
from app.gateway.protocol.json_body.edits import BodyEdit
from app.gateway.protocol.request import InferenceRequest

if TYPE_CHECKING:
    from app.gateway.protocol import refusals


class Way:
    """Where requests for a model go, as it was found, for as long as models and aliases stay the same."""

    __slots__ = (
        "_loaded", "beginning", "client", "cold_starts", "counts_prompts", "fit", "gate", "model", "route", "told",
    )  # fmt: skip

    def __init__(self, proxy: Proxy, route: Route, path: str) -> None:
        self.route = route
        self.model = str(route.model)
        self.client = proxy.upstream_clients[route.tier]
        self.beginning = self.client.beginning("POST", path)
        self.counts_prompts = route.engine.cuts_prompts and path in prompt_truncation.COUNTED
        """Whether the count of its prompt may tell that a prompt was cut."""
        self.cold_starts = proxy.cold_starts[route.tier]
        self.gate = proxy.line_gates[route.tier]
        self.told = written(route.told)
        self.fit: refusals.Wants | None = None
        """What the model is known to be able to do."""
        self._loaded = proxy.loaded

    def note_use(self) -> None:
        """A server has just answered with the model."""
        self.cold_starts.answered(self.route.served_name, ())
        self._loaded.answered(self.route.tier, self.route.served_name)


def asking_for_usage(request: InferenceRequest, way: Way) -> BodyEdit | None:
    """How the body asks for the usage of its stream, where it is asked for on its caller's behalf."""
    return None if way.route.engine.tells_usage else request.asking_for_usage
