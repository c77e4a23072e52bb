"""The lists of all models, put together once for all who see the same of them.

Every client asks for them, some every few seconds, and with hundreds of models they take tens of milliseconds to make:
so the entries are made by a thread when a model or another name has come or gone, and an answer only joins them.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from app.gateway.auth.keys import Caller
from app.gateway.catalog import ollama_lists as lists
from app.gateway.catalog.state import KnownState
from jobs.core.json_text import json_bytes
from jobs.core.model_name import ModelName
from jobs.models.aliases import Aliases
from jobs.models.card import KnownModel

Entries = tuple[bytes, ...]


@dataclass(frozen=True)
class _OfModel:
    """What the two lists say of a model and its other names."""

    name: ModelName
    tags: bytes
    openai: bytes


@dataclass
class _Made:
    """What was made from these models and aliases. Its making and `seen` are a thread's, one at a time."""

    models: Sequence[KnownModel]
    aliases: Aliases
    entries: tuple[_OfModel, ...] = ()
    seen: dict[tuple[str, ...], tuple[Entries, Entries]] = field(default_factory=dict)
    """By the patterns of keys, what they see of the entries: of tags, of OpenAI's list."""


class PreparedLists:
    """Belongs to one event loop, but for `_made_for`, which a thread calls.

    Args:
        known: the models and their other names.

    """

    def __init__(self, known: KnownState) -> None:
        self._known = known
        #: Held by whoever has something made; the others wait for that, and mostly need not make it themselves.
        self._making = asyncio.Lock()
        #: Replaced as a whole by the event loop, under `_making`.
        self._made: _Made | None = None

    async def tags(self, caller: Caller) -> bytes:
        """`/api/tags`: what `ollama_lists.tags` says, as JSON."""
        entries, _ = await self._seen_by(caller)
        return b'{"models":[%b]}' % b",".join(entries)

    async def openai_models(self, caller: Caller) -> bytes:
        """`/v1/models`: what `ollama_lists.openai_models` says, as JSON."""
        _, entries = await self._seen_by(caller)
        return b'{"object":"list","data":[%b]}' % b",".join(entries)

    async def _seen_by(self, caller: Caller) -> tuple[Entries, Entries]:
        if (found := self._ready(caller)) is not None:
            return found
        async with self._making:
            if (found := self._ready(caller)) is None:
                self._made = await asyncio.to_thread(self._made_for, caller, self._made)
                found = self._made.seen[caller.models]
        return found

    def _ready(self, caller: Caller) -> tuple[Entries, Entries] | None:
        made = self._made
        return made.seen.get(caller.models) if made is not None and self._is_current(made) else None

    def _is_current(self, made: _Made) -> bool:
        return made.models is self._known.models() and made.aliases is self._known.aliases

    def _made_for(self, caller: Caller, before: _Made | None) -> _Made:
        """What is known now, as this caller sees it."""
        made = before if before is not None and self._is_current(before) else self._make()
        seen = [each for each in made.entries if caller.may_use(each.name)]
        made.seen[caller.models] = tuple(each.tags for each in seen), tuple(each.openai for each in seen)
        return made

    def _make(self) -> _Made:
        models, aliases = self._known.models(), self._known.aliases
        entries = (
            _OfModel(
                model.name,
                _joined(lists.tags_of(model, self._known)),
                _joined(lists.openai_models_of(model, self._known)),
            )
            for model in models
        )
        return _Made(models, aliases, tuple(entries))


def _joined(entries: Sequence[object]) -> bytes:
    return b",".join(map(json_bytes, entries))
