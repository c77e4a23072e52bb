"""Whether a prompt was cut, which Ollama does without a word.

Where a prompt does not fit, `/api/chat` leaves out the oldest messages, the runner takes tokens out of its middle, and
`/api/embed` reads its beginning alone (server/prompt.go, server/routes.go; llm/llama_server.go:279-318).
With `truncate: false` these routes refuse such a prompt instead, before anything of it is evaluated. So a request that
may not fit is sent with that first; when it is refused, it is sent as it came, and what is answered then is the answer
to a prompt that was cut: known for certain, and before the first byte of it.

`/v1` has no such field. There only the count at the end tells, and of the runner's cut alone, which leaves a length of
its own; of messages that were left out nothing does.
"""

import sys
from collections.abc import Iterable

from app.gateway.catalog.state import KnownState
from app.gateway.inference.routing import Route
from app.gateway.protocol.request import InferenceRequest
from app.gateway.upstream.upstream_client import UpstreamAnswer
from app.model_server.report import Report
from jobs.models.card import KnownModel

LEAST_CONTEXT = {"/api/chat": 2048, "/api/generate": 2048, "/api/embed": 256}
"""Tokens that every model takes on these routes, unless the request says less. A token has a byte or more, so that a
shorter body cannot hold a prompt that does not fit, and need not be asked about."""

COUNTED = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"})
"""Routes whose prompts the runner may cut, and that cannot forbid it."""

NUM_KEEP = 4
"""Tokens at the beginning that the runner keeps, unless the model's parameters say otherwise (api/types.go)."""

_MOST_REFUSAL = 1024 * 1024

_FORBIDDEN = b',"truncate":false'
"""At the end of the body, where Go's decoder takes it before what was said earlier."""


def may_cut(path: str, size: int, request: InferenceRequest) -> bool:
    """Whether Ollama may cut the prompt of this request, and would not if it were told; `size` is that of its body."""
    least = LEAST_CONTEXT.get(path)
    if least is None or request.forbids_cut:
        return False
    return size > min(least, request.context or least)


class UncutPrompt:
    """A body that forbids Ollama to cut its prompt, until that is refused."""

    def __init__(self, body: bytearray) -> None:
        self._body = body
        self.is_cut = False
        """Whether it was refused as it came."""
        end = body.rindex(b"}")
        body[end:end] = _FORBIDDEN

    async def is_refused(self, answer: UpstreamAnswer) -> bool:
        """Whether this answer refuses the request; then it is read and done with, and the body as it came.

        Whatever it is refused for: if it is not for its length, it is refused again.
        """
        if self.is_cut or answer.status != 400:
            return False
        try:
            await answer.whole(_MOST_REFUSAL)
        finally:
            answer.close()
        self.is_cut = True
        end = self._body.rindex(b"}")
        del self._body[end - len(_FORBIDDEN) : end]
        return True


class LengthsLeft:
    """What is left of prompts that are cut, by what is known now; a body that fits every context costs one look.

    Belongs to one event loop.
    """

    def __init__(self, known: KnownState) -> None:
        self._known = known
        self._reports: object = None
        self._models: object = None
        #: The least context that each model may be loaded with, by the route's own; for as long as reports and models
        #: are the same.
        self._least: dict[tuple[str, str, int], int] = {}

    def of(self, route: Route, body_size: int) -> frozenset[int]:
        """See `lengths_left`."""
        reports, models = self._known.reports(), self._known.models()
        if reports is not self._reports or models is not self._models or len(self._least) > _MOST_REMEMBERED:
            self._reports, self._models = reports, models
            self._least.clear()
        own = (route.served_name, route.tier, route.weighed.context)
        least = self._least.get(own)
        expected = (route.weighed.context, route.weighed.tier.context or 0)
        if least is None:
            of_tier = self._known.reports(route.tier)
            contexts = _contexts(str(route.model), of_tier, expected)
            least = self._least[own] = min((each for each in contexts if each > 1), default=sys.maxsize)
        if body_size <= least:
            return frozenset()
        model = self._known.find(route.model)
        if model is None:
            return frozenset()
        return lengths_left(model, self._known.reports(route.tier), body_size, expected=expected)


_MOST_REMEMBERED = 1024


def _contexts(name: str, reports: Iterable[Report], expected: Iterable[int]) -> frozenset[int]:
    reported = {loaded.context for report in reports for loaded in report.loaded if loaded.name == name}
    return frozenset(reported.union(expected))


def lengths_left(
    model: KnownModel, reports: Iterable[Report], body_size: int, *, expected: Iterable[int] = ()
) -> frozenset[int]:
    """What the runner leaves of a prompt that does not fit, in tokens, for each context that the model is loaded with.

    A server reports now and then; until it does, a model that was loaded a moment ago has one of the `expected` ones.

    It keeps the first `num_keep` and frees half of the rest (llm/llama_server.go, contextShiftPromptLimit). A prompt
    has no more tokens than bytes, so a context above the body's size cuts nothing.
    """
    contexts = _contexts(str(model.name), reports, expected)
    card = model.card
    keep = card.options.get("num_keep") if card is not None else None
    kept = keep if isinstance(keep, int) and not isinstance(keep, bool) else NUM_KEEP
    return frozenset(_left(context, kept + bos) for context in contexts if 1 < context < body_size for bos in (0, 1))


def _left(context: int, keep: int) -> int:
    """For `keep` tokens, the one that some tokenizers put before all others included; below zero all are kept."""
    keep = min(keep, context - 1) if keep >= 0 else context - 1
    return context - max((context - keep) // 2, 1)
