"""Other names for models as `ollama cp` makes them and `ollama rm` takes them away. No weights are copied or deleted.

They are one entry of the ledger's dict, so that all gateways have them after their next refresh. Those that the fleet
declares are changed there and nowhere else.
"""

import json
import threading
from collections.abc import Mapping
from typing import Any

from loguru import logger

from app.gateway.auth.keys import Caller
from app.gateway.catalog.state import KnownState
from app.gateway.protocol.json_body.edits import Body
from app.gateway.protocol.json_body.search import fields_of
from app.logs import request_of_lines
from jobs.access.audit import Audit
from jobs.core.clock import Clock, isoformat
from jobs.core.errors import BadName, BadRequest, NotFound, Refused
from jobs.core.model_name import ModelName
from jobs.models.aliases import Aliases, as_made
from jobs.store import keys
from jobs.store.protocols import DictLike

MOST = 500
"""They are one entry of the dict, read at each refresh, and each stands in every list."""

_FIELDS = frozenset({"source", "destination"})


class MadeAliases:
    """Makes and removes them. Any thread may ask; it waits for the store.

    Args:
        facts: the ledger's dict.
        known: what is known of models.
        clock: the time.
        audit: where it is written down who did what.

    """

    def __init__(self, facts: DictLike, known: KnownState, clock: Clock, audit: Audit) -> None:
        self._facts = facts
        self._audit = audit
        self._known = known
        self._clock = clock
        #: Held from reading the entry to writing it. Another gateway, as there is one during a deployment, is not kept
        #: out: of two changes in the same instant the later one counts.
        self._changing = threading.Lock()

    def make(self, caller: Caller, source: str, destination: str) -> None:
        """Give a model another name, as `ollama cp` does; one that was made before then stands for this model.

        Raises:
            BadRequest: one of the two is no name.
            Forbidden: the key may not use the model, or that name.
            NotFound: there is no such model.
            Refused: the name is a model's own, or the fleet declares it, or there are too many.

        """
        with self._audit.act(who=caller.name, request=request_of_lines.get(), act="copy", subject=destination):
            self._make(caller, source, destination)

    def _make(self, caller: Caller, source: str, destination: str) -> None:
        wanted, name = _name("source", source), _name("destination", destination)
        model, alias = self._known.resolve(wanted)
        caller.need_model(model.name if model else alias.target if alias else wanted, asked_as=wanted)
        caller.need_model(name)
        if model is None:
            raise NotFound(f"model {json.dumps(source)} not found", hint=f"pull it: `ollama-modal pull {wanted}`")
        if name.folded() == model.name.folded():
            return
        if self._known.find(name) is not None:
            raise Refused(
                f"{str(name)!r} is a model that is here, and no copy is put in its place",
                hint=f"choose another name, or delete that model first: `ollama-modal delete {name}`",
            )
        self._refuse_declared(name)
        with self._changing:
            made = self._made()
            if len(made) >= MOST and str(name.folded()) not in made:
                raise Refused(f"there are {MOST} aliases, and no more than that", hint="remove some: `ollama rm NAME`")
            entry = as_made(model.name, caller.name, isoformat(self._clock.now()))
            self._facts.put(keys.ALIASES, {**made, str(name.folded()): entry})
        logger.info("{} is an alias of {}, made by {}", name, model.name, caller.name)
        self._known.refresh()

    def remove(self, caller: Caller, name: ModelName) -> bool:
        """Take a name away that was made, and leave its model; false where the name is no alias.

        Raises:
            Forbidden: the key may not use the model behind it.
            Refused: the fleet declares it.

        """
        if self._known.find(name) is not None:
            return False
        with self._changing:
            made = dict(self._made())
            entry = made.pop(str(name.folded()), None)
            request = request_of_lines.get()
            if entry is None:
                try:
                    self._refuse_declared(name, caller)
                except Refused as refusal:
                    who = caller.name
                    self._audit.refused(who=who, request=request, act="delete", subject=str(name), error=refusal)
                    raise
                return False
            with self._audit.act(who=caller.name, request=request, act="delete", subject=str(name)):
                for alias in Aliases(made={str(name.folded()): entry}).all:  # none, where it cannot be read
                    caller.need_model(alias.target, asked_as=name)
                self._facts.put(keys.ALIASES, made)
        logger.info("{} is no alias any more, removed by {}", name, caller.name)
        self._known.refresh()
        return True

    def _made(self) -> Mapping[str, Any]:
        made = self._facts.get(keys.ALIASES, {})
        if not isinstance(made, Mapping):
            raise Refused("the aliases in the ledger cannot be read, so none is changed: a later version wrote them")
        return made

    def _refuse_declared(self, name: ModelName, caller: Caller | None = None) -> None:
        alias = self._known.aliases.exact.get(name.folded())
        if alias is not None and alias.is_declared and (caller is None or caller.may_use(alias.target)):
            raise Refused(
                f"the fleet declares {str(name)!r} as an alias of {str(alias.target)!r}: change it in [aliases] of the"
                " fleet file, and deploy or start again"
            )


def copy_asked(body: Body) -> tuple[str, str]:
    """What a request to copy a model names: which, and the new name.

    Raises:
        BadRequest: they are no texts.

    """
    fields = fields_of(body, _FIELDS)
    texts = [fields.scalar(name) for name in ("source", "destination")]
    if not all(isinstance(text, str) for text in texts):
        raise BadRequest("source and destination are names", hint='as in {"source": "a", "destination": "b"}')
    return str(texts[0]).strip(), str(texts[1]).strip()


def _name(what: str, text: str) -> ModelName:
    try:
        return ModelName.parse(text)
    except BadName as error:
        raise BadRequest(f"{what} {json.dumps(text[:200])} is invalid", hint=error.hint) from error
