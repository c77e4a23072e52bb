"""Whatever a model's files hold: it is listed, it can be deleted, and it harms nobody."""

import gc
import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loguru import logger

from app.gateway.catalog import ollama_lists as lists
from app.gateway.catalog.sources import Directory
from app.gateway.catalog.state import KnownState
from jobs.core.clock import SystemClock
from jobs.core.model_name import ModelName
from jobs.home.status import card_complaints, complaints
from jobs.models import card as cards
from jobs.weights import survey
from jobs.weights.layout import Layout
from jobs.weights.removal import remove
from tests.support.hostile_models import POISONS, WEIGHTS, Poison, lay_poison
from tests.support.models_directory import nothing, weights_at
from tests.support.stores import NoFacts

GOOD = Poison("good")
MOST_KEPT_BYTES = 24 << 20
"""Of any one model: what a card keeps, what it takes to read it, and the manifest."""


def known_state_of(root: Path) -> KnownState:
    known_state = KnownState(NoFacts(), Directory(Layout(root / "models")), SystemClock())
    assert known_state.refresh(), known_state.trouble
    return known_state


def told(known_state: KnownState) -> bytes:
    """All that the gateway tells of models, as bytes on a wire."""
    shown = [lists.show(model, {}) for model in known_state.models()]
    document = [lists.tags(known_state), lists.openai_models(known_state), shown]
    return json.dumps(document, allow_nan=False, ensure_ascii=False).encode()


@pytest.mark.parametrize("poison", POISONS, ids=str)
def test_a_poisoned_model_is_listed_told_and_deletable(tmp_path: Path, poison: Poison) -> None:
    """The other is listed as ever; what is wrong with this one is told once, in the log and among the complaints."""
    lay_poison(tmp_path, GOOD, poison)
    said: list[str] = []
    handler = logger.add(said.append, level="WARNING", format="{message}")
    try:
        known_state = known_state_of(tmp_path)
        (tmp_path / "models" / "manifests" / "anew").touch()
        assert known_state.refresh()
    finally:
        logger.remove(handler)

    assert {str(model.name) for model in known_state.models()} == {"good:latest", f"{poison.name}:latest"}
    told(known_state)
    lines = card_complaints(known_state.models())
    assert len(lines) == 2 * bool(poison.says), lines
    assert poison.says in "".join(lines)
    assert len([each for each in said if poison.name in each]) == bool(poison.says), said
    assert all(f"ollama-modal delete {poison.name}" in line for line in lines[1::2])
    weights = weights_at(tmp_path)
    assert complaints(weights.survey()) == []
    remove(weights, ModelName.parse(poison.name), still_ours=nothing)
    assert [str(model.name) for model in cards.read(weights.layout, known_state.models())] == ["good:latest"]


@pytest.mark.parametrize("name", ["listed-again", "fewer-arrays", "littered-config"])
def test_a_card_has_a_total(tmp_path: Path, name: str) -> None:
    """To read a model's files and to keep what they say never takes more than a bound, whatever their number."""
    poison = next(each for each in POISONS if each.name == name)
    lay_poison(tmp_path, poison)
    gc.collect()
    tracemalloc.start()
    try:
        (model,) = cards.read(Layout(tmp_path / "models"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert model.card is not None
    assert peak < MOST_KEPT_BYTES


def test_a_card_with_flaws_is_read_again_only_when_its_files_change(tmp_path: Path) -> None:
    """What cannot be made sense of costs its reading once; a blob that was mended is read anew."""
    poison = Poison("odd", (("model", b"no header"),), says="not GGUF")
    lay_poison(tmp_path, poison)
    layout = Layout(tmp_path / "models")
    (first,) = cards.read(layout)
    (second,) = cards.read(layout, [first])
    assert first.card is second.card
    assert first.card
    assert poison.says in first.card.wrong

    blob = next(each for each in layout.blobs.iterdir() if each.read_bytes() == b"no header")
    blob.unlink()
    blob.write_bytes(b"no haeder")  # another file under the same name
    (third,) = cards.read(layout, [second])
    assert third.card is not first.card


def test_each_file_is_read_once_for_a_card(tmp_path: Path) -> None:
    """A text that is listed a hundred times is kept once, and shown as often as it is listed."""
    lay_poison(tmp_path, Poison("often", (("model", WEIGHTS), *([("license", b"one license")] * 100))))
    (model,) = cards.read(Layout(tmp_path / "models"))
    assert model.card
    assert len(model.card.licenses) == 100
    assert len({id(each) for each in model.card.licenses}) == 1
    assert model.card.wrong == ""


def test_what_nobody_foresaw_makes_a_bare_card(tmp_path: Path) -> None:
    """Where a reader of ours fails, the model has a card that says so, and nothing else is different."""
    lay_poison(tmp_path, GOOD)
    layout = Layout(tmp_path / "models")
    (whole,) = (each for each in survey.read_models(layout) if isinstance(each, survey.SurveyedModel))
    odd = replace(whole, manifest=replace(whole.manifest, raw=b"what no manifest can be once it was parsed"))
    card = cards.card_of(layout, odd)
    assert card.wrong == card.missing
    assert "cannot be made sense of: Corrupt" in card.wrong
    assert (card.header, card.traits.declared, cards.details(card)["families"]) == (None, (), None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(), max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
KEYS = ("model_format", "model_family", "model_families", "model_type", "file_type", "renderer", "parser", "requires",
        "capabilities", "context_length", "embedding_length", "remote_host")  # fmt: skip


TEMPLATE = st.lists(
    st.sampled_from([*'{}"`\\\n', "{{", "}}", "{{if ", "{{end}}", "{{range .Messages}}", "/*", " -", "\ud800"]),
    max_size=40,
).map("".join)
FILES = st.fixed_dictionaries({
    "config": st.dictionaries(st.sampled_from(KEYS), JSON) | JSON | st.binary(max_size=30),
    "params": JSON | st.binary(max_size=30),
    "messages": JSON,
    "template": TEMPLATE,
    "model": st.binary(max_size=60).map(lambda noise: b"GGUF\3\0\0\0" + noise) | st.just(WEIGHTS),
    "from": JSON,
})  # fmt: skip


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=FILES)
def test_no_files_spoil_an_answer(tmp_path: Path, files: dict[str, Any]) -> None:
    """Whatever stands in each of its files, a model is listed beside the other, and all that is told can be sent."""

    def raw(value: Any) -> bytes:
        if isinstance(value, bytes):
            return value
        return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else json.dumps(value).encode()

    layers = tuple((kind, raw(files[kind])) for kind in ("model", "template", "params", "messages"))
    parent = files["from"]
    odd = Poison("odd", layers, raw(files["config"]), lambda document: document["layers"][0].update({"from": parent}))
    lay_poison(tmp_path, GOOD, odd)

    known_state = known_state_of(tmp_path)

    assert {str(model.name) for model in known_state.models()} == {"good:latest", "odd:latest"}
    assert b'"name": "good:latest"' in told(known_state)
