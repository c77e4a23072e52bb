"""httpx's errors in our words."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from jobs.core.errors import CutShort, NetworkTrouble, Stalled, Trouble, Unreachable
from jobs.http.errors import MEANING, meaning, translated
from jobs.testing.ollama.server import OllamaDouble
from tests.support.waiting import PATIENCE


def _below(kind: type[Exception]) -> set[type[Exception]]:
    return {kind}.union(*(_below(each) for each in kind.__subclasses__()))


def test_every_error_of_httpx_has_a_meaning() -> None:
    """Each httpx error that can be raised stands in the table, or is a mere ancestor of those that do."""
    leaves = {each for each in _below(httpx.HTTPError) if not each.__subclasses__() and each.__module__ == "httpx"}
    assert leaves - set(MEANING) == set()


@pytest.mark.parametrize(
    ("error", "trouble"),
    [
        (httpx.ConnectError("refused"), Unreachable),
        (httpx.ReadTimeout("late"), Stalled),
        (httpx.RemoteProtocolError("cut"), CutShort),
        (httpx.TransportError("whatever"), NetworkTrouble),
    ],
)
def test_an_error_is_raised_in_our_words_from_the_original(error: Exception, trouble: type[Trouble]) -> None:
    """The message says what was going on, and the cause is kept."""
    assert meaning(error) is trouble
    with pytest.raises(trouble, match="asking for a model: ") as caught, translated("asking for a model"):
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_no_proxy_stands_before_loopback(host: str, tmp_path: Path) -> None:
    """With HTTP_PROXY set and nothing else, servers on this machine are still asked directly."""
    with OllamaDouble(tmp_path) as double:
        url = double.url.replace("127.0.0.1", host)
        ask = f"from jobs.ollama.client import OllamaClient; print(OllamaClient({url!r}).version())"
        done = subprocess.run(
            [sys.executable, "-c", ask],
            env={"HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9", "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    assert done.stdout.strip().endswith("simulator"), done.stderr
