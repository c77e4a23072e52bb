"""The status page while a model is on its way into memory: in words, and how far it has come."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from app.model_server.report import Report
from jobs.store.sqlite import SqliteDict
from jobs.telemetry.cold_starts import ColdStart, Phase, Progress
from tests.support.browser import MISSING, Browser, browser
from tests.support.dialects import OPENAI, whole_answer
from tests.support.gateways import CLOCK, RunningGateway, asked, gateway
from tests.support.scripted_server import HeldServer, ScriptedServer
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

GB = 1_000_000_000
BAR = "const bar = document.querySelector('.tier progress'); return bar?.checkVisibility() ? bar.value : null"


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


def tell(running: RunningGateway, phase: Phase | None, read: int) -> None:
    began = CLOCK.now() - timedelta(seconds=5)
    progress = Progress(0, "start", began, "llama3.2:latest", phase, {"engine": 2.0}, size=2 * GB, read=read)
    report = Report("a10g", "ta-1", "waking" if phase else "serving", CLOCK.now(), progress=(progress,))
    running.facts.put(report.key, report.as_json())


def test_a_start_is_shown_as_it_goes_on(tmp_path: Path, window: Browser) -> None:
    """The phase, the model, the bytes that have come, and a bar of them; nothing of it once the model is there."""
    held_server = HeldServer(awake=False)
    with (
        ThreadPoolExecutor(1) as pool,
        ScriptedServer(whole_answer, opening=held_server) as server,
        gateway(tmp_path, {"a10g": server.url}, is_remote=True, refresh_seconds=0.2, startup=2 * PATIENCE) as running,
    ):
        asking = pool.submit(asked, running, OPENAI)
        tell(running, "bytes", 500_000_000)
        window.open(f"{running.url}/ui")
        window.until_text(".tier-coming", "a10g reads llama3.2, 0.5 of 2.0 GB")
        window.until(lambda: window.run(BAR) == pytest.approx(0.25), "a bar at a quarter")
        tell(running, "bytes", 1_100_000_000)
        window.until_text(".tier-coming", "1.1 of 2.0 GB")
        window.until(lambda: window.run(BAR) == pytest.approx(0.55), "a bar that went on")
        tell(running, None, 2 * GB)
        held_server.awake.set()
        assert asking.result().status_code == 200
        window.until(lambda: not window.is_shown(".tier-coming"), "what was on its way")
        assert window.complaints() == []


def test_the_bar_goes_on_through_the_phases(tmp_path: Path, window: Browser) -> None:
    """Where earlier starts tell how long one takes, the bar is of all of it: from the engine's start to the bytes it
    goes on, and not back to where the bytes are."""
    seconds: dict[Phase, float] = {"container": 4.0, "engine": 2.0, "bytes": 3.0, "memory": 1.0}
    earlier = [
        ColdStart("a10g", f"ta-0{n}", 0, "start", CLOCK.now(), "llama3.2:latest", 2 * GB, seconds) for n in range(3)
    ]
    with closing(SqliteDict(tmp_path / "gateway.sqlite")) as facts:
        for each in earlier:
            facts.put(each.key, each.as_json())
    held_server = HeldServer(awake=False)
    with (
        ThreadPoolExecutor(1) as pool,
        ScriptedServer(whole_answer, opening=held_server) as server,
        gateway(tmp_path, {"a10g": server.url}, is_remote=True, refresh_seconds=0.2, startup=2 * PATIENCE) as running,
    ):
        asking = pool.submit(asked, running, OPENAI)
        tell(running, "engine", 0)
        window.open(f"{running.url}/ui")
        window.until_text(".tier-coming", "a10g starts its engine for llama3.2, about")
        before = window.until(lambda: window.run(BAR), "a bar of the time")
        tell(running, "bytes", 100_000_000)
        window.until_text(".tier-coming", "a10g reads llama3.2, 0.1 of 2.0 GB, about")
        assert window.run(BAR) > 0.3
        assert before > 0.3
        tell(running, None, 2 * GB)
        held_server.awake.set()
        assert asking.result().status_code == 200
