"""Upstream and callers in Python, where there is no Go: the same commands and figures as those of load/.

It ends at some ten thousand requests a second, so what is faster than that looks as slow.
"""

import argparse
import asyncio
import json
import re
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import uvloop

MODEL = "bench"
_MADE = re.compile(rb'"content":\s*"(\d{9,})"')
_LISTED = {"name": f"{MODEL}:latest", "model": f"{MODEL}:latest", "modified_at": "2026-01-01T00:00:00Z",
           "size": 1_000_000, "digest": "a" * 64, "details": {"format": "gguf", "family": "llama"}}  # fmt: skip
_CHOICE = {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
_ANSWERS: dict[str, dict[str, Any]] = {
    "/api/tags": {"models": [_LISTED]},
    "/api/ps": {"models": [{**_LISTED, "size_vram": 1_000_000, "expires_at": "2099-01-01T00:00:00Z",
                            "context_length": 8192}]},
    "/api/version": {"version": "0.32.15"},
    "/v1/models": {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 1, "owned_by": "library"}]},
    "/v1/chat/completions": {"id": "c1", "object": "chat.completion", "created": 1, "model": MODEL,
                             "choices": [_CHOICE],
                             "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}},
}  # fmt: skip
_LOADED = {"model": MODEL, "created_at": "2026-01-01T00:00:00Z", "done": True, "done_reason": "load"}

# -- the upstream: an Ollama that answers at once, or piece by piece ---------------------------------------------------


class Upstream(asyncio.Protocol):
    """One connection. It speaks just enough of Ollama for gateways to believe it."""

    def __init__(self, pieces: int, pace: float) -> None:
        self.count = pieces
        self.pace = pace
        self.seen = b""
        self.transport: asyncio.Transport | None = None
        self.streams: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio calls it so
        for stream in self.streams:
            stream.cancel()

    def data_received(self, data: bytes) -> None:
        self.seen += data
        while (end := self.seen.find(b"\r\n\r\n")) >= 0:
            head = self.seen[:end].lower()
            length = re.search(rb"content-length: *(\d+)", head)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self.seen) < whole:
                return
            body, first = self.seen[end + 4 : whole], self.seen[:end].split(b" ", 2)
            self.seen = self.seen[whole:]
            self.answer(first[1].decode(), json.loads(body) if body else {})

    def answer(self, path: str, request: dict[str, Any]) -> None:
        if path == "/v1/chat/completions" and request.get("stream"):
            stream = asyncio.get_running_loop().create_task(self.pieces())
            self.streams.add(stream)
            stream.add_done_callback(self.streams.discard)
            return
        body = json.dumps(_ANSWERS.get(path, _LOADED)).encode()
        self.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )

    async def pieces(self) -> None:
        text = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        loop, start = asyncio.get_running_loop(), asyncio.get_running_loop().time()
        for number in range(1, self.count + 1):
            self.write(text + event({"content": str(time.time_ns())}, None))
            text = b""
            await asyncio.sleep(max(0.0, start + self.pace * number - loop.time()))
        self.write(event({}, "stop") + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    def write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)


def event(delta: dict[str, str], finish: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    document = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": MODEL, "choices": [choice]}
    return chunk(b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def serve(port: int, pieces: int, pace: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Upstream(pieces, pace), "127.0.0.1", port, backlog=2048)
    print("ready", flush=True)
    await server.serve_forever()


# -- the callers -------------------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What the callers saw: milliseconds from asking to the first piece, from a piece's making to its coming."""

    first: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    cut: int = 0


class Caller:
    """One keep-alive connection of a client."""

    def __init__(self, port: int, request: bytes) -> None:
        self._port = port
        self._request = request
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self) -> tuple[asyncio.StreamReader, bytes]:
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writer.write(self._request)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in answer.split(b"\r\n", 1)[0]:
            rest = await self._reader.read(500)
            raise RuntimeError(f"answered {answer[:200]!r} {rest!r}")
        return self._reader, answer.lower()

    async def once(self) -> None:
        reader, head = await self.ask()
        if length := re.search(rb"content-length: *(\d+)", head):
            await reader.readexactly(int(length[1]))
        else:
            await reader.readuntil(b"0\r\n\r\n")

    async def stream(self, seen: Seen, pieces: int) -> None:
        began = time.time_ns()
        reader, _ = await self.ask()
        kept, made, is_done = b"", 0, False
        while not kept.endswith(b"0\r\n\r\n"):
            data = await reader.read(65536)
            now = time.time_ns()
            if not data:
                self.close()
                break
            kept += data
            last = 0
            for match in _MADE.finditer(kept):
                if not made:
                    seen.first.append((now - began) / 1e6)
                made += 1
                seen.late.append((now - int(match[1])) / 1e6)
                last = match.end()
            kept = kept[last:]
            is_done = is_done or b"[DONE]" in kept
        if made < pieces or not is_done:
            seen.cut += 1

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


async def all_of(callers: Sequence[Caller], work: Callable[[int, Caller], Awaitable[None]]) -> float:
    """Seconds that it took."""
    began = time.monotonic()
    await asyncio.gather(*(work(number, caller) for number, caller in enumerate(callers)))
    took = time.monotonic() - began
    for caller in callers:
        caller.close()
    return took


async def requests(callers: Sequence[Caller], seconds: float, count: int) -> dict[str, float]:
    """For some seconds, or so many; each caller asks as soon as the answer before is there."""
    done, until = 0, time.monotonic() + seconds

    async def work(_number: int, caller: Caller) -> None:
        nonlocal done
        sent = 0
        while done < count if count else not sent or time.monotonic() < until:
            done += 1
            await caller.once()
            sent += 1

    took = await all_of(callers, work)
    return {"requests": done, "seconds": took}


async def streams(callers: Sequence[Caller], rounds: int, pieces: int) -> dict[str, float]:
    """Side by side, their beginnings spread evenly over a second and over the time between two pieces."""
    seen = Seen()

    async def work(number: int, caller: Caller) -> None:
        await asyncio.sleep(number * 1.618034 % 1)
        for _ in range(rounds):
            await caller.stream(seen, pieces)

    took = await all_of(callers, work)
    return {
        "first_p50_ms": percentile(seen.first, 50),
        "first_p95_ms": percentile(seen.first, 95),
        "late_p50_ms": percentile(seen.late, 50),
        "late_p95_ms": percentile(seen.late, 95),
        "pieces_per_second": len(seen.late) / took,
        "pieces": len(seen.late),
        "cut": seen.cut,
    }


def percentile(values: Sequence[float], share: int) -> float:
    if len(values) < 2:
        return values[0] if values else 0.0
    return statistics.quantiles(values, n=100, method="inclusive")[share - 1]


def request(path: str, key: str, *, stream: bool, size: int) -> bytes:
    content = "hi" + " and so on" * (size // 10)
    body = json.dumps({"model": MODEL, "stream": stream, "messages": [{"role": "user", "content": content}]}).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("command", choices=("upstream", "requests", "streams"))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--pieces", type=int, default=60, help="of one stream")
    parser.add_argument("--pace", default="50ms", help="between two pieces of a stream")
    parser.add_argument("--path", default="/v1/chat/completions")
    parser.add_argument("--key", default="none")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--body", type=int, default=0, help="bytes of a request's message")
    parser.add_argument("--rounds", type=int, default=1)
    given = parser.parse_args()
    if given.command == "upstream":
        uvloop.run(serve(given.port, given.pieces, float(given.pace.removesuffix("ms")) / 1000))
        return
    text = request(given.path, given.key, stream=given.command == "streams", size=given.body)
    callers = [Caller(given.port, text) for _ in range(given.connections)]
    if given.command == "requests":
        print(json.dumps(uvloop.run(requests(callers, given.seconds, given.count))))
    else:
        print(json.dumps(uvloop.run(streams(callers, given.rounds, given.pieces))))


if __name__ == "__main__":
    main()
