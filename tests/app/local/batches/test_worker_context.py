"""What batches of this machine work with follows from what `up` has written down of itself."""

from pathlib import Path

import pytest

from app.fleet.file import FLEET_FILE, parsed
from app.fleet.schema import parse
from app.local.batches.worker_context import batch_context, plan_of
from jobs.batches.running.batch_context import ModelRoute
from jobs.core.clock import SystemClock
from jobs.core.errors import NotFound, Refused, StoreUnavailable
from jobs.home.home import Home, LocalServer, Stack
from jobs.models.placement import LOCAL
from tests.support.batch_files import CHAT, checked, line, packed, posted
from tests.support.models_directory import publish, sample, weights_at

FLEET = (
    FLEET_FILE.read_text("utf-8")
    .replace('name = "deepseek-r1:32b"', 'name = "tiny"')
    .replace("# [aliases]", '[aliases]\n"gpt-4o" = "tiny"')
    .replace("# [batches]", "[batches]\nat_once = 7\nmost_lines = 10\nkeep_days = 3")
)
"""`tiny` is declared for the H100."""


def stack_of(folder: Path, fleet: str | None, **more: object) -> Stack:
    names = ("a10g", "h100") if fleet else (LOCAL.name,)
    declared = parse(parsed(fleet, folder), "fleet") if fleet else None
    given: dict[str, object] = {
        "servers": tuple(LocalServer(name, "http://127.0.0.1:9") for name in names),
        "models": folder / "models",
        "gateway": "http://127.0.0.1:9",
        "fleet": folder / "fleet.toml" if fleet else None,
        "fleet_text": fleet,
        **({"batches": declared.batches.limits, "aliases": declared.named.declared} if declared else {}),
        **more,
    }
    return Stack(1, SystemClock().now(), simulated=False, **given)  # type: ignore[arg-type]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "om")
    made.prepare()
    publish(weights_at(tmp_path), sample("tiny"))
    return made


def test_lines_go_where_the_gateway_sends_them(home: Home, tmp_path: Path) -> None:
    """By the tier that is declared, and by other names; a model that is not here is told, with what to do."""
    route = batch_context(home, stack_of(tmp_path, FLEET), SystemClock()).route
    assert route("tiny") == route("gpt-4o") == ModelRoute("tiny:latest", "h100")
    with pytest.raises(NotFound, match="model 'tony:latest' not found") as missing:
        route("tony")
    assert "ollama-modal pull tony" in (missing.value.hint or "")


def test_without_a_fleet_there_is_one_tier(home: Home, tmp_path: Path) -> None:
    """That of the one server."""
    context = batch_context(home, stack_of(tmp_path, None), SystemClock())
    assert context.route("tiny") == ModelRoute("tiny:latest", LOCAL.name)


def test_what_is_declared_of_batches_counts(home: Home, tmp_path: Path) -> None:
    """How many lines go at once, how many there may be, and how long files are kept."""
    context = batch_context(home, stack_of(tmp_path, FLEET), SystemClock())
    assert (context.at_once.of_each(), context.most_lines) == (7, 10)
    assert context.keep is not None
    assert context.keep.days == 3
    assert plan_of(stack_of(tmp_path, FLEET)).server_tiers == ("a10g", "h100")


def test_models_that_cannot_be_known_now_are_not_missing(home: Home, tmp_path: Path) -> None:
    """A server that is asked for them, and does not answer, fails no line."""
    context = batch_context(home, stack_of(tmp_path, None, models=None), SystemClock())
    with pytest.raises(StoreUnavailable, match="which models are here is not known now"):
        context.route("tiny")


def test_a_body_is_checked_as_the_gateway_checks_it(home: Home, tmp_path: Path) -> None:
    """What it would refuse whatever the model is refused before a line is sent."""
    shape = batch_context(home, stack_of(tmp_path, None), SystemClock()).shape
    good = line(1)["body"]
    assert shape(CHAT, good) is None
    refusal = shape(CHAT, {**good, "messages": "hello"})
    assert refusal is not None
    assert refusal.code == "invalid_request"
    assert shape("/v1/embeddings", {"model": "tiny", "input": "hello"}) is None


def test_a_batch_is_told_what_it_will_take(home: Home, tmp_path: Path) -> None:
    """A guess, where nothing was measured; nothing is paid here."""
    context = batch_context(home, stack_of(tmp_path, None), SystemClock())
    texts = packed(line(n, body={"model": "tiny", "messages": []}) for n in range(1, 4))
    record = posted(context.storage, context.storage.save("", "f", texts))
    estimate = context.estimate(record, checked(context.storage, record))
    assert estimate is not None
    assert (estimate.basis, estimate.use.dollars) == ("guess", None)


def test_without_a_gateway_nobody_works(home: Home, tmp_path: Path) -> None:
    """Lines would have nowhere to go."""
    with pytest.raises(Refused, match="has not written down where its gateway answers"):
        batch_context(home, stack_of(tmp_path, None, gateway=None), SystemClock())
