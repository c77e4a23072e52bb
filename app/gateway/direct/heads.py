"""Answers the common request without a task: passed on as it has come, and its answer as that comes, by callbacks.

Common is a small question by a key without limits, with a head that was let in before on its connection, to a model
that a server has in memory and to which a connection is open; whose answer comes whole, and is one, or is a stream that
goes on as it comes to a caller who takes it. Whatever is not, at whatever point that shows, and be it in the middle of
a stream, is handed to the task that answers every other request (`app`, `inference.proxy`): with
what was found out so far, with the connection on which a server was asked, so that nothing is asked twice, and with
what the caller has of the answer, so that nothing is said twice.

So no rule is told here a second time. What is looked at here is whether a rule has anything to say.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from loguru import logger

from app.gateway.auth.keys import Key, Keys
from app.gateway.auth.live_keys import LiveKeys
from app.gateway.direct.answer import DirectAnswer
from app.gateway.direct.shared import Begin, CallerCycle, Shared
from app.gateway.direct.ways import Way, asking_for_usage
from app.gateway.inference import abilities, prompt_truncation
from app.gateway.inference.proxy import HeadStart, Proxy
from app.gateway.protocol.body import Budget
from app.gateway.protocol.headers import Header
from app.gateway.protocol.json_body.edits import edit
from app.gateway.protocol.request import InferenceRequest, is_encoded, is_small_kind, small_request
from app.gateway.protocol.routes import RouteEntry
from jobs.access.limits import NO_LIMITS
from jobs.core.errors import Trouble

_MOST_HEADS = 256
"""Heads that are kept for other connections."""

_MOST_WAYS = 64
"""Names of models whose way is kept for one head."""


@dataclass(frozen=True, slots=True)
class DecidedHead:
    """What follows from a head alone, so that it holds for each request on a connection that has the same one: its key
    was known and might ask for this. What hangs on the moment, as when the key expires, is looked at each time.
    """

    path: str
    found: tuple[RouteEntry, str]
    key: Key
    known: Keys
    """Among which that key was: of others it has to be found anew."""
    id: str
    """That the head gives to each request; empty where it gives none."""
    to_server: bytes


class _Head:
    """Of requests that have the same head: the same key asks for the same path."""

    __slots__ = ("_age", "_new_id", "_shared", "_ways", "decided", "entry", "key")

    def __init__(self, shared: Shared, decided: DecidedHead, new_id: Callable[[], str]) -> None:
        self._shared = shared
        self.entry = decided.found[0]
        self.key = decided.key
        self.decided = decided
        self._new_id = new_id
        self._age = -1
        """Of the routes that `_ways` were made from."""
        self._ways: dict[str, Way | None] = {}

    def is_begun(self, cycle: CallerCycle) -> bool:
        """Whether a server was asked; else nothing was done, or nothing but what the task goes on from."""
        try:
            return self._is_begun(cycle)
        except Exception as error:  # noqa: BLE001 - a callback's edge: the task, which can tell the caller, goes on
            logger.opt(exception=error).error("the request to {} failed", self.entry.path)
            return cycle.direct is not None

    def _is_begun(self, cycle: CallerCycle) -> bool:
        shared, key, body = self._shared, self.key, cycle.body
        keys, now, at = shared.keys, shared.clock.monotonic(), shared.clock.now()
        if (
            keys.known is not self.decided.known
            or (key.is_of_ledger and now > keys.trusted_until)
            or key.is_over(at)
            or cycle.flow.write_paused
            or cycle.disconnected
            or shared.admission.concerns(key.caller)
            or not shared.budget.has_room(key.caller.name, len(body))
        ):
            return False
        try:
            request = small_request(body, self.entry)
        except Trouble:  # whoever reads it once more says what is wrong with it
            return False
        if request is None:
            return False
        start = cycle.head_start = HeadStart(self.decided.id or self._new_id(), at, now, request)
        if (way := self._way(request, len(body))) is None:
            return False
        headers = b"%bx-request-id: %b\r\n" % (self.decided.to_server, start.id.encode())
        if request.streams and (asking := asking_for_usage(request, way)) is not None:
            body = body.copy()  # what it came as is for the task
            edit(body, [asking])
        if (connection := way.client.begin(way.beginning, headers, body)) is None:
            return False
        cycle.head_start = None
        keys.is_used = True
        cycle.direct = DirectAnswer(shared, key, self.entry, cycle, start, way, connection)
        return True

    def _way(self, request: InferenceRequest, size: int) -> Way | None:
        """Where it goes now, if no rule has anything to say of it."""
        if not request.is_plain or prompt_truncation.may_cut(self.entry.path, size, request):
            return None
        cache = self._shared.proxy.route_cache
        if cache.age != self._age:
            self._ways.clear()
            self._age = cache.age
        try:
            way = self._ways[request.model]
        except KeyError:
            way = self._ways[request.model] = self._found(request)
            if len(self._ways) > _MOST_WAYS:
                self._ways.clear()
        if way is None or (request.wants is not way.fit and not self._is_fit(way, request)):
            return None
        if way.gate.lines or way.gate.waiting:  # one may have to give way
            return None
        return way if way.cold_starts.is_ready_everywhere(way.route.served_name) else None

    def _found(self, request: InferenceRequest) -> Way | None:
        proxy = self._shared.proxy
        try:
            route = proxy.route_cache.route(self.key.caller, request.model, None, self.entry.path)
        except Trouble:
            return None
        return Way(proxy, route, self.entry.path) if proxy.passes_as_it_came(route, request, self.entry.path) else None

    def _is_fit(self, way: Way, request: InferenceRequest) -> bool:
        if way.route.engine.refuses_as_ollama:
            try:
                abilities.refuse(request.wants, request.model, self._shared.proxy.known.find(way.route.model))
            except Trouble:
                return False
        way.fit = request.wants
        return True


class DirectAnswers:
    """Knows the heads with which common requests come. Belongs to one event loop.

    Args:
        proxy: what other requests to models are answered by.
        keys: who may ask.
        budget: what all bodies may take.

    """

    def __init__(self, proxy: Proxy, keys: LiveKeys, budget: Budget) -> None:
        self._shared = Shared(proxy, keys, budget)
        self._heads: dict[tuple[str, str, bytes], _Head] = {}

    def of(self, decided: DecidedHead, headers: Iterable[Header], new_id: Callable[[], str]) -> Begin | None:
        """What answers requests with a head that was let in; None where there is something about all of them.

        Args:
            decided: what was found out from the head.
            headers: of it.
            new_id: names a request.

        """
        entry = decided.found[0]
        is_plain = (
            entry.action == "passed"
            and is_small_kind(entry.path)
            and decided.key.caller.limits is NO_LIMITS
            and not is_encoded(headers)
        )
        return partial(self._shared.ask, self._head_of(decided, new_id).is_begun) if is_plain else None

    def _head_of(self, decided: DecidedHead, new_id: Callable[[], str]) -> _Head:
        """One for all connections on which the same comes."""
        if decided.id:
            return _Head(self._shared, decided, new_id)
        of = decided.key.proof, decided.path, decided.to_server
        head = self._heads.get(of)
        if head is None or head.decided.known is not decided.known:
            if len(self._heads) >= _MOST_HEADS:
                self._heads.clear()
            head = self._heads[of] = _Head(self._shared, decided, new_id)
        return head
