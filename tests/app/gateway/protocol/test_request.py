"""What decides the way of a request is read as Go reads it, or the request is refused.

Go's answers were recorded; where it is there, it is asked again.
"""

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from starlette.types import Message

from app.gateway.auth.keys import Caller
from app.gateway.protocol.exchange import CallerConnection, Exchange
from app.gateway.protocol.request import InferenceRequest, is_quick, read_request
from app.gateway.protocol.routes import find
from jobs.core.errors import BadRequest, Refused, Trouble
from tests.support import go_answers
from tests.support.go_answers import END, FORM, GOOD, HIDDEN, OTHER, Case, part
from tests.support.waiting import least, worked

PATHS = {
    "generate": "/api/generate",
    "chat": "/api/chat",
    "embed": "/api/embed",
    "show": "/api/show",
    "openai": "/v1/chat/completions",
    "form": "/v1/audio/transcriptions",
}

needs_go = pytest.mark.skipif(not go_answers.has_go(), reason="go is not installed; its recorded answers stand in")
slowly = pytest.mark.timeout(600)  # the first time, Go's own library is compiled


async def _nowhere(_: Message) -> None:
    raise AssertionError


def exchange_of(case: Case) -> Exchange:
    found = find(PATHS[case.kind])
    assert found is not None
    return Exchange(
        id="1",
        entry=found[0],
        below="",
        method="POST",
        headers=[(b"content-type", case.content_type.encode())],
        body=bytearray(case.body),
        caller=Caller("bob", frozenset()),
        at=datetime(2026, 1, 1, tzinfo=UTC),
        began=0.0,
        send=_nowhere,
        connection=cast("CallerConnection", None),  # nothing is said to it
    )


def read(case: Case) -> InferenceRequest | Trouble:
    """What the gateway makes of it."""
    reading = read_request(exchange_of(case))
    try:
        if not is_quick(case.body):  # a thread reads it
            return asyncio.run(reading)
        reading.send(None)
    except StopIteration as done:
        found: InferenceRequest = done.value
        return found
    except Trouble as trouble:
        return trouble
    raise AssertionError


MINUTE = 60_000_000_000


def differences(case: Case, go: dict[str, Any], ours: InferenceRequest) -> dict[str, Any]:
    """Where a request that passes is not what the gateway took it for; empty where Go refuses it."""
    if go.get("error"):
        return {}
    model = go["model"].strip().removesuffix(":local") if "model" in go else ""  # Ollama trims it, as we do
    found = {"model": (model, ours.model), "debug": (go.get("debug", False), False)}
    if case.kind in {"generate", "chat", "openai"}:
        found["stream"] = (go.get("stream", True), ours.streams)
    if case.kind in {"generate", "chat", "embed"}:
        keep = go.get("keep")
        found["settings"] = (go.get("loads", {}), dict(ours.settings))
        found["kept"] = (keep is None or keep >= MINUTE, ours.is_kept)
        found["loads"] = (keep != 0 or go.get("says", False), ours.needs_load)
    return {name: pair for name, pair in found.items() if pair[0] != pair[1]}


def test_the_table_is_that_of_these_cases() -> None:
    """The recorded table holds each case, and no other; `python -m tests.support.go_answers` makes it anew."""
    assert [case for case, _ in go_answers.recorded()] == go_answers.cases()


@pytest.mark.parametrize(("case", "go"), go_answers.recorded(), ids=lambda value: getattr(value, "kind", ""))
def test_what_passes_is_read_as_go_reads_it(case: Case, go: dict[str, Any]) -> None:
    """Each trick is refused, or Go reads in it what we read."""
    ours = read(case)
    if isinstance(ours, InferenceRequest):
        assert not differences(case, go, ours), case.body
    else:
        assert isinstance(ours, Refused) or "_debug_render_only" in str(ours)


PLAIN = [
    Case("chat", b'{"model":"llama3.2","options":{"num_ctx":null,"temperature":null,"seed":null,"num_gpu":null}}'),
    Case("chat", b'{"model":"llama3.2","options":null,"keep_alive":null,"stream":null,"format":null,"tools":null}'),
    Case("chat", b'{"MODEL":"llama3.2","Messages":[{"role":"user","content":"\\ud83d\\ude00"}]}'),
    Case("show", b'{"name":"llama3.2"}'),
    Case("openai", b'{"model":"llama3.2","messages":[{"role":"user","content":"x"}],"options":{"x":1},"stream":false}'),
    *(
        Case("form", body.encode(), content_type)
        for content_type in (FORM, 'multipart/form-data; boundary="B"')
        for body in (
            GOOD + END,
            OTHER + GOOD + END,
            GOOD + OTHER + "--B--",
            part("model", "llama3.2", "form-data; name={}") + END,
            part("model", "llama3.2", 'form-data; name="{}"', "Content-Type: text/plain; charset=utf-8") + END,
            part("timestamp_granularities[]", "word") + GOOD + END,
            part("file", "x", 'form-data; name="{}"; filename="a \\"b\\" \u00e9.wav"', "Content-Type: audio/wav")
            + GOOD
            + END,
            part("file", "x", "form-data; name={}; filename=a.wav; filename*=utf-8''a.wav") + GOOD + END,
            part("file", "x\n--B--\r\n\r\n--A--\r\n") + GOOD + END,
        )
    ),
]


@pytest.mark.parametrize("case", PLAIN, ids=lambda case: case.kind)
def test_what_clients_send_passes(case: Case) -> None:
    """Options that a library leaves at null, names in any case, and forms as curl, browsers, Python and .NET write."""
    ours = read(case)
    assert isinstance(ours, InferenceRequest), ours
    assert (ours.model, ours.settings) == ("llama3.2", ())


@pytest.mark.parametrize("keep", ["11h" * 2_000 + "x", "1" * 7_000, "1.5h" * 1_500 + ".", "1ms" * 2_000 + "-"])
def test_no_duration_takes_long_to_read(keep: str) -> None:
    """A `keep_alive` that is nearly one is seen not to be within milliseconds, however often it could be cut anew."""
    case = Case("generate", b'{"model":"llama3.2","keep_alive":"%b"}' % keep.encode())
    assert least(lambda: worked(lambda: read(case)), 0.2) < 0.2
    ours = read(case)
    assert isinstance(ours, BadRequest)
    assert "duration" in str(ours)


@needs_go
@slowly
def test_the_table_is_what_go_says_today() -> None:
    """Asked again, Go answers as it was recorded, and takes what clients send."""
    table = go_answers.recorded()
    said = go_answers.asked([case for case, _ in table])
    changed = [(case, then, now) for (case, then), now in zip(table, said, strict=True) if then != now]
    assert not changed
    assert [each.get("model") for each in go_answers.asked(PLAIN)] == ["llama3.2"] * len(PLAIN)


# -- bodies that nobody thought of -------------------------------------------------------------------------------------

NAMES = [
    '"model"', '"model"', '"model"', '"Model"', '"\\u006dodel"', '"name"', '"stream"', '"\u017ftream"', '"options"',
    '"options"', '"Option\\u017f"', '"keep_alive"', '"\u212aeep_alive"', '"prompt"', '"messages"', '"verbose"',
    '"_debug_render_only"', '"x"', '"model\\u0000"', '"mod\u00e9l"', '"num_ctx"', '"num_ctx"', '"num_gpu"', '"NUM_CTX"',
    '"use_mmap"',
]  # fmt: skip
VALUES = [
    '"llama3.2"', '"deepseek-r1:32b"', "null", "true", "false", "0", "1", "1e5", "100000.0", "-1", "1.5", '"0"', '"1m"',
    '"x"', '""', "[]", "{}", "[null]", '"\\ud800"', '"\\n"', "1e400", "NaN", '"a\\"}"', "{", "}", "[1,{}]",
    '[{"role":"user"}]',
]  # fmt: skip


def random_json(chance: random.Random, depth: int = 0) -> str:
    pairs = []
    for _ in range(chance.choice((0, 1, 1, 2, 2, 3, 4))):
        name = chance.choice(NAMES)
        is_object = depth < 2 and (chance.random() < 0.15 or ("ption" in name and chance.random() < 0.8))
        value = random_json(chance, depth + 1) if is_object else chance.choice(VALUES)
        gap = chance.choice(("", "", "", " ", "\n"))
        pairs.append(f"{gap}{name}{gap}:{gap}{value}{gap}")
    if depth == 0 and chance.random() < 0.8:
        pairs.insert(chance.randrange(len(pairs) + 1), '"model":"llama3.2"')
    return "{" + ",".join(pairs) + "}"


def random_form(chance: random.Random) -> str:
    pieces = [
        GOOD, GOOD, HIDDEN, OTHER, END, END, "--B\r\n", "--B", "\r\n", "\n", "\r\n\r\n", "--", " ", "x", "--B--",
        'Content-Disposition: form-data; name="model"', "Content-Transfer-Encoding: quoted-printable\r\n",
        "deepseek-r1:32b", 'Content-Disposition: form-data; name="model"\r\n\r\n', part("file", "x"),
        part("model", "deepseek-r1:32b"), part("model", "deepseek-r1:32b", 'form-data; name="{}"; filename=""'),
        part("a", "b", 'form-data; name="{}"; filename="\\""'),
    ]  # fmt: skip
    form = [chance.choice(pieces) for _ in range(chance.randrange(4))]
    return "".join([*form, GOOD, *(chance.choice(pieces) for _ in range(chance.randrange(3))), END])


def scratched(chance: random.Random, text: str) -> bytes:
    """The same, with a byte here and there that is missing, doubled or another."""
    body = bytearray(text.encode())
    for _ in range(chance.choice((0, 0, 0, 1, 1, 2))):
        at = chance.randrange(len(body) + 1)
        body[at : at + chance.randrange(2)] = chance.choice(
            (b"", b"\r", b"\n", b'"', b"\\", b",", b"-", b"\x00", b"\xff", b":", b" ")
        )
    return bytes(body)


Make = Callable[[random.Random], str]


def invented(seed: int, count: int) -> list[Case]:
    chance = random.Random(seed)
    kinds: list[tuple[str, Make]] = [
        *((kind, random_json) for kind in ("generate", "chat", "embed", "show", "openai")),
        *(("form", random_form) for _ in range(3)),
    ]
    return [Case(kind, scratched(chance, make(chance))) for kind, make in (chance.choice(kinds) for _ in range(count))]


@needs_go
@slowly
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_go_and_we_read_the_same_of_anything(seed: int) -> None:
    """Of thousands of bodies of clever and broken pieces, none passes that Go reads otherwise; and many do pass."""
    cases = invented(seed, 5000)
    passed = 0
    for case, go in zip(cases, go_answers.asked(cases), strict=True):
        ours = read(case)
        if isinstance(ours, InferenceRequest):
            passed += not go.get("error")
            assert not differences(case, go, ours), case
    assert passed > 500
