"""What a person reads, line by line: whoever's words they are, they cannot move the cursor or begin a line of ours."""

import json
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loguru import logger
from rich.console import Console
from rich.progress import Progress as RichProgress

from app.logs import as_text
from jobs.cli import output as terminal
from jobs.cli.progress_bar import Bars
from jobs.cli.warnings_log import log_warnings
from jobs.core.errors import CutShort, NotFound, ServerTrouble, Stalled, Trouble
from jobs.core.model_name import ModelName
from jobs.core.progress import Progress
from jobs.core.retry import NEVER
from jobs.core.sanitize import plain, visible
from jobs.http import watched_stream as watching
from jobs.http.errors import translated
from jobs.ollama.client import OllamaClient
from jobs.ollama.pull_progress import PullWatch
from jobs.testing.clock import HandClock

FORGED = "gone\r\x1b[2K\x1b[1A12:00:00 INFO    pull done\nready http://evil\u202e\u2028\x85\x9b1m"


def harmless(line: str) -> bool:
    return "\n" not in line and line.isprintable()


@given(st.text(st.characters()))
def test_a_visible_line_is_one_line(text: str) -> None:
    """Nothing in it but what can be seen; what could already be seen is as it was."""
    shown = visible(text)
    assert all(character.isprintable() for character in shown if unicodedata.category(character) != "Zs")
    assert "\n" not in shown
    assert "\x1b" not in shown
    if text.isascii() and text.isprintable():
        assert shown == text


def test_a_text_of_megabytes_is_cut() -> None:
    """What is shown of a text is bounded, however long it is."""
    assert len(plain("\x1b" * 10_000_000)) < 5_000
    assert plain("a " * 10_000_000).endswith("…")


SINKS: dict[str, Callable[[str], object]] = {
    "say": terminal.say,
    "put": terminal.put,
    "lines": lambda text: terminal.put_lines([text]),
    "table": lambda text: terminal.put_table(["NAME"], [[text]]),
    "complain": lambda text: terminal.complain(NotFound(text, hint=text)),
}


@pytest.mark.parametrize("sink", SINKS)
def test_the_command_line_writes_no_raw_words(sink: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each way of writing a line writes one line, with escapes for what could not be seen."""
    SINKS[sink](FORGED)
    written = "".join(capsys.readouterr())
    lines = written.removesuffix("\n").split("\n")
    assert len(lines) == {"table": 2, "complain": 2}.get(sink, 1)
    assert all(map(harmless, lines))
    assert "\\x1b[2K" in written


def test_json_is_written_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """For programs there is all of it, in JSON's own escapes."""
    terminal.put_json({"said": FORGED})
    assert json.loads(capsys.readouterr().out) == {"said": FORGED}


def test_a_warning_of_a_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """What happens inside is told in a line, and an exception without its trace."""
    log_warnings()
    try:
        logger.opt(exception=ValueError(FORGED)).warning("odd: {}", FORGED)
    finally:
        logger.remove()
    written = capsys.readouterr().err
    assert written.startswith("warning: odd: gone")
    assert harmless(written.removesuffix("\n"))


def test_the_log_on_a_terminal_is_one_line_each() -> None:
    """A registry's words in a message, and a subject, stand in their line and nowhere else."""
    written: list[str] = []
    handler = logger.add(written.append, format=as_text, diagnose=False, backtrace=False, colorize=False)
    try:
        with logger.contextualize(job="j-1", attempt=2, kind="pull", subject=FORGED):
            logger.warning("attempt met trouble: {}", FORGED)
            logger.warning("long: {}", "x" * 100_000)
            logger.warning("{{ braces }} <red>{}</red>", "<blue>")
    finally:
        logger.remove(handler)
    assert [str(line).count("\n") for line in written] == [1, 1, 1]
    assert all(harmless(str(line).removesuffix("\n")) for line in written)
    assert len(str(written[1])) < 5_000
    assert "{ braces } <red><blue></red>" in str(written[2])


def test_a_bar_tells_no_raw_words() -> None:
    """A line above the bar is as harmless as any other."""
    console = Console(record=True, width=400, highlight=False)
    progress = RichProgress(console=console)
    Bars(progress).print_line(FORGED)
    assert harmless(console.export_text().removesuffix("\n").rstrip())


def test_a_librarys_words_are_bounded() -> None:
    """What a library quotes of the other side is cut and escaped before it becomes a message."""
    with pytest.raises(Trouble) as raised, translated("asking"):
        raise httpx.RemoteProtocolError(FORGED + "x" * 100_000)
    assert harmless(str(raised.value))
    assert len(str(raised.value)) < 400


# -- what a server says ------------------------------------------------------------------------------------------------


def watch() -> tuple[PullWatch, Progress]:
    progress = Progress(HandClock())
    patience = timedelta(minutes=1)
    return PullWatch("pulling", progress, stall=patience, verify_budget=patience), progress


FRAMES: list[Mapping[str, Any]] = [
    {"status": FORGED},
    {"status": ["a"] * 100_000},
    {"status": "a", "digest": 7, "total": "many", "completed": None},
    {"status": "a", "digest": "x" * 100_000, "total": 10**400, "completed": -1},
    {"status": "a", "digest": {}, "total": 1.5, "completed": True},
    {"status": None, "digest": "sha256:1", "total": [], "completed": {}},
]


@pytest.mark.parametrize("frame", FRAMES)
def test_an_odd_frame_of_a_pull_is_counted_as_far_as_it_counts(frame: Mapping[str, Any]) -> None:
    """What is no number counts nothing, and what is written down of a frame's words is short and harmless."""
    watching, progress = watch()
    watching.take(frame)
    reading = progress.read()
    assert harmless(reading.status)
    assert len(reading.status) < 500
    json.dumps(reading.as_json(), allow_nan=False)
    assert 0 <= reading.total < 2**63


def test_layers_without_end_are_trouble() -> None:
    """A server that tells of new layers for ever is not remembered for ever."""
    watching, _ = watch()
    for number in range(20_000):
        watching.take({"status": str(number % 2), "digest": str(number), "total": 1, "completed": 1})
    with pytest.raises(ServerTrouble, match="more than 20,000 layers"):
        watching.take({"status": "a", "digest": "another", "total": 1})


def test_an_error_of_megabytes_is_told_in_short() -> None:
    """However long a server's error is, what is kept of it can be read, and finding out its class takes no time."""
    watching, _ = watch()
    for text in ("realm host " * 200_000, "x" * 5_000_000, FORGED):
        with pytest.raises(Trouble) as raised:
            watching.take({"error": text})
        assert harmless(str(raised.value))
        assert len(str(raised.value)) < 5_000


class Stream(httpx.SyncByteStream):
    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces


def asking(answer: Callable[[], httpx.Response], clock: HandClock | None = None) -> OllamaClient:
    client = httpx.Client(transport=httpx.MockTransport(lambda _: answer()))
    return OllamaClient("http://ollama.test", client=client, policy=NEVER, clock=clock)


def forever(piece: bytes, each: Callable[[], object] = lambda: None) -> Iterator[bytes]:
    while True:
        each()
        yield piece


def test_an_answer_without_end_is_given_up() -> None:
    """A list, an error or a frame that goes on and on is read up to a bound; one in drops, for a time."""
    with pytest.raises(ServerTrouble, match="more than 33,554,432 bytes"):
        asking(lambda: httpx.Response(200, stream=Stream(forever(bytes(1 << 20))))).tags()
    clock = HandClock()
    with pytest.raises(Stalled, match="in whole within 70 s"):
        asking(lambda: httpx.Response(200, stream=Stream(forever(b" ", lambda: clock.tick(1)))), clock).tags()
    with pytest.raises(CutShort, match="a line of the answer has more than"):
        asking(lambda: httpx.Response(200, stream=Stream(forever(bytes(1 << 20))))).pull("m", progress=watch()[1])
    endless = Stream(forever(b"words\n" * 1_000))
    with pytest.raises(Trouble):
        asking(lambda: httpx.Response(500, stream=endless)).pull("m", progress=watch()[1])


def test_an_encoded_answer_of_a_server_is_not_decoded() -> None:
    """Identity is asked for; what comes encoded all the same is trouble."""
    encoded = {"Content-Encoding": "gzip, gzip"}

    def odd() -> httpx.Response:
        return httpx.Response(200, headers=encoded, stream=Stream(iter([b"x"])))

    with pytest.raises(ServerTrouble, match="which was not asked for"):
        asking(odd).tags()
    with pytest.raises(ServerTrouble, match="which was not asked for"):
        asking(odd).pull("m", progress=watch()[1])


ODD_LISTS: list[Any] = [
    {"models": [{"name": "no name at all!", "details": {"families": 7}, "capabilities": 5, "size": 10**400}]},
    {"models": [{"name": "\ud800", "details": {"families": [1, None, "\udfff"], "family": {"a": 1}}}]},
    {"models": [{"name": 7, "modified_at": "0000", "size": float("nan")}]},
]


@pytest.mark.parametrize("document", ODD_LISTS)
def test_an_odd_list_of_a_server_is_read_as_far_as_it_goes(document: Any) -> None:
    """Names that are none, numbers that are none and halves of characters harm nothing that can be sent on."""
    raw = json.dumps(document).encode()
    (listed,) = asking(lambda: httpx.Response(200, content=raw)).tags()
    json.dumps([listed.name, listed.details.as_json(), listed.size], allow_nan=False, ensure_ascii=False).encode()
    assert not ModelName.parse("m").is_called(listed.name)
    assert asking(lambda: httpx.Response(200, content=raw)).running("m") is None
    with pytest.raises(ServerTrouble, match="too deep"):
        asking(lambda: httpx.Response(200, content=b"[" * 99_999)).tags()


def test_a_reader_waits_for_its_caller() -> None:
    """Lines are read only so far ahead: a server that talks without end fills no memory while nobody listens."""
    sent = 0

    def line() -> None:
        nonlocal sent
        sent += 1

    def stop() -> None:
        raise NotFound("enough")

    client = httpx.Client(
        transport=httpx.MockTransport(lambda _: httpx.Response(200, stream=Stream(forever(b"{}\n", line))))
    )
    request = client.build_request("GET", "http://ollama.test/")
    with watching.exchange(client, request, doing="asking", idle=stop) as events:
        next(events)
        next(events)
    assert sent < 200
