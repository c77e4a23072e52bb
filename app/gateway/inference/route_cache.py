"""Where requests went a moment ago, for as long as models and aliases stay the same: to weigh them again takes long.

Only routes are kept. A name without a model is looked up every time, so that it is found once it is there.
"""

from collections import OrderedDict

from app.gateway.auth.keys import Caller
from app.gateway.catalog.state import KnownState
from app.gateway.inference.routing import Route, Router
from jobs.core.model_name import ModelName

MOST = 256
"""Routes that are kept of each key, which may ask for as many contexts as it likes; the one used longest ago goes."""

_Asked = tuple[str, int | None, tuple[str, ...]]
"""A name, a context, and the tiers that speak the path: those are the same for most paths."""


class _OfKey:
    """The routes of a key, by the name of the key: to find them by all that it may do would take longer."""

    __slots__ = ("caller", "routes")

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.routes: OrderedDict[_Asked, Route] = OrderedDict()


class RouteCache:
    """Belongs to one event loop."""

    def __init__(self, router: Router, known: KnownState) -> None:
        self._router = router
        self._known = known
        self._models: object = None
        self._aliases: object = None
        self._age = 0
        self._routes: dict[str, _OfKey] = {}

    def route(self, caller: Caller, text: str, context: int | None, path: str = "") -> Route:
        """Where a request of this caller goes.

        Raises:
            BadName: the text is no model's name.
            Forbidden: the key may not use it.
            NotFound: there is no such model.
            Unsupported: its tier does not speak that path.

        """
        self._drop_stale()
        of_key = self._routes.get(caller.name)
        if of_key is None or of_key.caller is not caller:
            of_key = self._routes[caller.name] = _OfKey(caller)
        own = of_key.routes
        asked = text, context, self._router.speaking(path)
        route = own.get(asked)
        if route is None:
            name = ModelName.parse(text)
            caller.need_model(self._router.subject(name), asked_as=name)
            route = self._router.route(text, context=context, may_see=caller.may_use, path=path)
            own[asked] = route
            if len(own) > MOST:
                own.popitem(last=False)
        else:
            own.move_to_end(asked)
        return route

    @property
    def age(self) -> int:
        """Another number than before, where models or aliases are others: then routes are, too."""
        self._drop_stale()
        return self._age

    def is_known(self, name: str) -> bool:
        """Whether a model is here under exactly this name."""
        return name in self._known.names

    def _drop_stale(self) -> None:
        models, aliases = self._known.models(), self._known.aliases
        if models is not self._models or aliases is not self._aliases:
            self._models, self._aliases = models, aliases
            self._age += 1
            self._routes.clear()
