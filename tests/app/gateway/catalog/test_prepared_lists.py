"""Promises of the prepared lists: what they say is what the lists say, for each key, as things are now."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from app.gateway.auth.keys import Caller
from app.gateway.catalog import ollama_lists as lists
from app.gateway.catalog.prepared_lists import PreparedLists
from app.gateway.catalog.state import KnownState
from jobs.core.model_name import ModelName
from jobs.models.aliases import Aliases, as_made
from jobs.models.card import KnownModel
from jobs.store import keys
from tests.support.gateways import ModelList, model
from tests.support.stores import Store

ALL = Caller("all", frozenset({"chat"}))
SOME = Caller("some", frozenset({"chat"}), models=("qwen*",))
NONE = Caller("none", frozenset({"chat"}), models=("nothing",))


@dataclass
class House:
    """What a gateway knows, and its lists."""

    store: Store
    source: ModelList
    known: KnownState
    prepared: PreparedLists

    def says(self, caller: Caller) -> tuple[Any, Any]:
        async def ask() -> tuple[bytes, bytes]:
            return await self.prepared.tags(caller), await self.prepared.openai_models(caller)

        tags, openai = asyncio.run(ask())
        return json.loads(tags), json.loads(openai)

    def wanted(self, caller: Caller) -> tuple[Any, Any]:
        return lists.tags(self.known, caller.may_use), lists.openai_models(self.known, caller.may_use)


def house(store: Store, *names: str) -> House:
    source = ModelList([model(name) for name in names])
    known = KnownState(store.facts, source, store.clock, aliases=Aliases({"gpt-4o": "qwen3", "claude-*": "llama3.2"}))
    assert known.refresh()
    return House(store, source, known, PreparedLists(known))


def test_they_say_what_the_lists_say(store: Store) -> None:
    """In the same order, other names behind their models, and each key what it may see."""
    found = house(store, "llama3.2", "qwen3", "qwen3:30b")
    for caller in (ALL, SOME, NONE, ALL):
        assert found.says(caller) == found.wanted(caller)
    assert [each["name"] for each in found.says(SOME)[0]["models"]] == ["qwen3:30b", "qwen3:latest", "gpt-4o:latest"]


def test_what_has_changed_is_said_at_once(store: Store) -> None:
    """Models that came or went, and names that were made; by the next question after it is known."""
    found = house(store, "llama3.2")
    assert found.says(ALL) == found.wanted(ALL)
    found.source.models = [model("qwen3")]
    found.known.refresh()
    assert found.says(ALL) == found.wanted(ALL)
    made = as_made(ModelName.parse("qwen3"), "all", "2026-01-01T00:00:00Z")
    store.facts.put(keys.ALIASES, {"mine:latest": made})
    found.known.refresh()
    assert found.says(ALL) == found.wanted(ALL)
    assert "mine:latest" in {each["name"] for each in found.says(ALL)[0]["models"]}


def test_without_a_model_they_are_empty(store: Store) -> None:
    """Lists, and not null, on which clients break."""
    assert house(store).says(ALL) == ({"models": []}, {"object": "list", "data": []})


def test_entries_are_made_once_for_all_keys(store: Store) -> None:
    """However many ask at the same time, and however many keys there are."""
    found = house(store, "llama3.2", "qwen3")
    seen: list[KnownModel] = []
    callers = [Caller(f"key-{number}", frozenset(), models=(f"qwen{number}*",)) for number in range(20)]
    original = found.known.aliases_of

    class Counting(KnownState):
        def aliases_of(self, model: KnownModel) -> list[ModelName]:
            seen.append(model)
            return original(model)

    counting = Counting(store.facts, found.source, store.clock)
    counting.refresh()
    prepared = PreparedLists(counting)

    async def crowd() -> None:
        await asyncio.gather(*(prepared.tags(caller) for caller in callers * 3))

    asyncio.run(crowd())
    assert len(seen) == 2 * len(found.source.models)  # once for each of the two lists
