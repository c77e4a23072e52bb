"""What each engine is: its routes, its lines, and how it counts tokens, as the real ones were seen to write them."""

import pytest

from app.engines.answer_tokens import Tokens
from app.engines.engine import Engine
from app.engines.llama_server import LLAMA_SERVER
from app.engines.ollama import OLLAMA
from app.engines.table import ENGINES, speaking
from app.gateway.protocol.routes import TABLE

_MESSAGE_START = (
    b'event: message_start\ndata: {"type":"message_start","message":{"content":[],"usage":'
    b'{"cache_read_input_tokens":20,"input_tokens":5,"output_tokens":0}}}\n\n'
)
_MESSAGE_END = (
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"max_tokens"},'
    b'"usage":{"output_tokens":3}}\n\nevent: message_stop\ndata: {"type":"message_stop"}\n\n'
)
_TIMINGS = b'"timings":{"cache_n":20,"prompt_n":5,"prompt_ms":149.6,"predicted_n":3,"predicted_ms":297.2}'


@pytest.mark.parametrize(
    ("engine", "head", "tail", "tokens"),
    [
        (OLLAMA, b"", b'{"done":true,"prompt_eval_count":7,"eval_count":2}\n', Tokens(7, 2)),
        (OLLAMA, b"", b'"usage":{"prompt_tokens":0,"completion_tokens":0}}\n\n', Tokens()),
        (LLAMA_SERVER, b"", b'"usage":{"completion_tokens":3,"prompt_tokens":25,"total_tokens":28}}', Tokens(25, 3)),
        (LLAMA_SERVER, b"", b'data: {"choices":[{"delta":{}}],' + _TIMINGS + b"}\n\ndata: [DONE]\n\n", Tokens(25, 3)),
        (LLAMA_SERVER, _MESSAGE_START, _MESSAGE_END, Tokens(25, 3)),
        (LLAMA_SERVER, b"", b'"usage":{"input_tokens":25,"output_tokens":3}},' + _TIMINGS + b"}\n\n", Tokens(25, 3)),
        (LLAMA_SERVER, b"", b'{"model":"m","usage":{"prompt_tokens":9,"total_tokens":9}}', Tokens(9, None)),
        (LLAMA_SERVER, b"", b'{"tokens":[1,2]}', Tokens()),
    ],
)
def test_tokens_are_counted_as_each_engine_tells_them(engine: Engine, head: bytes, tail: bytes, tokens: Tokens) -> None:
    """Prompts count whole, what was in the cache included, and nothing is made up where nothing is said."""
    assert engine.tokens(head, tail) == tokens


def test_what_an_engine_speaks_is_in_the_table_of_routes() -> None:
    """No engine claims a path that the gateway does not know."""
    known = {entry.path for entry in TABLE}

    assert not [path for engine in ENGINES.values() for path in engine.routes - known]


def test_engines_are_found_by_their_routes() -> None:
    """A route leads to the engines that speak it."""
    assert speaking("/v1/chat/completions") == (OLLAMA, LLAMA_SERVER)
    assert speaking("/api/chat") == (OLLAMA,)
    assert speaking("/v1/rerank") == (LLAMA_SERVER,)
    assert speaking("/") == ()


@pytest.mark.parametrize("engine", ENGINES.values(), ids=lambda engine: engine.name)
@pytest.mark.parametrize("folder", ["/models/blobs", "/my models/of mine/blobs"])
def test_a_load_is_known_by_its_weights(engine: Engine, folder: str) -> None:
    """Wherever they lie, also where a folder has a blank in its name; no other file that it is given is taken for
    them."""
    weights, projector = f"sha256-{'a' * 64}", f"sha256-{'b' * 64}"
    for before, after in (("", f" --mmproj {folder}/{projector}"), (f" --mmproj {folder}/{projector}", "")):
        command = f"llama-server{before} --model {folder}/{weights} -ngl 0{after} -c 9"
        said = f"llama-host: loading smollm2:latest: {command}"
        if engine is OLLAMA:
            said = f'time=2026-11-28 level=INFO source=x.go:1 msg="starting llama-server" cmd="{command}"'
        began = engine.log.load_began.search(said)
        assert began is not None
        assert began["blob"] == weights
        assert engine.log.kept_off_the_gpu.search(began["command"])


def test_the_hosts_lines_tell_of_loads() -> None:
    """A load is followed by the lines of the host and those of llama.cpp in between."""
    log, blob = LLAMA_SERVER.log, f"sha256-{'a' * 64}"
    began = log.load_began.search(
        f"llama-host: loading smollm2:latest: llama-server --model /m/blobs/{blob} -ngl 0 -c 9"
    )

    assert began is not None
    assert began["blob"] == blob
    assert log.kept_off_the_gpu.search(began["command"])
    assert log.bytes_read.search("0.03.476.995 I cmn          init: llama threadpool init, n_threads = 1")
    assert log.load_ended.search("llama-host: loaded smollm2:latest in 1.2 s")
    assert log.answered.search("llama-host: answered 200 POST /v1/chat/completions")


def test_the_end_of_a_long_event_is_known() -> None:
    """What ends the last event of a stream of responses is recognised without its beginning, and nothing else is."""
    usage = b'"usage":{"input_tokens":25,"output_tokens":3,"input_tokens_details":{"cached_tokens":20}}}'

    assert LLAMA_SERVER.long_end.search(b'text"}],' + usage + b"," + _TIMINGS + b"}\n\n")
    assert not LLAMA_SERVER.long_end.search(rb"text \"usage\":{\"input_tokens\":25}}" + b'"}]}\n\n')
    assert OLLAMA.long_end.search(b'text"}]},"type":"response.completed"}\n\n')
