"""Lines of a batch a second, beside a plain asyncio client that asks the same server for the same: in turns.

    scripts/bench_batch [--lines N] [--parallel N]... [--turns N] [--json FILE]

The simulated server answers so many requests at once, each after a while for its prompt and then at a fixed pace. The
plain client asks the server itself, by as many connections as the server answers at once, and keeps nothing. The batch
is uploaded and posted as OpenAI's clients do it; its lines go through the gateway, its limits and its log, and their
results to the disk, synced before they count. Prints the lines a second of both from the first line to the last, how
they compare, and how long it took from the upload until the results could be read.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from batch_rig.stack import MODEL, up
from jobs.core.clock import parse_moment

ENDPOINT = "/v1/chat/completions"
PROMPT_MILLISECONDS = 40
TOKENS_PER_SECOND = 200
WORDS = "some words to answer with, as many as it takes"
OVER = {"completed", "failed", "expired", "cancelled"}


def bodies(count: int) -> list[dict[str, Any]]:
    return [{"model": MODEL, "messages": [{"role": "user", "content": f"{WORDS} {n}"}]} for n in range(count)]


async def plain(address: tuple[str, int], asked: list[dict[str, Any]], at_once: int) -> float:
    """Ask the server itself, by so many connections; the requests a second."""
    waiting = iter(asked)

    async def ask_in_turn() -> None:
        reader, writer = await asyncio.open_connection(*address)
        for each in waiting:
            body = json.dumps(each).encode()
            head = f"POST {ENDPOINT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            if not answer.startswith(b"HTTP/1.1 200 "):
                sys.exit(f"error: the server answered {answer[:80]!r}")
            fields = dict(line.lower().split(b": ", 1) for line in answer.split(b"\r\n")[1:-2])
            json.loads(await reader.readexactly(int(fields[b"content-length"])))
        writer.close()

    began = time.monotonic()
    await asyncio.gather(*(ask_in_turn() for _ in range(at_once)))
    return len(asked) / (time.monotonic() - began)


def batch(gateway: httpx.Client, asked: list[dict[str, Any]]) -> tuple[float, float]:
    """Post them as a batch: the lines a second, and the seconds until its results could be read."""
    lines = [{"custom_id": str(n), "method": "POST", "url": ENDPOINT, "body": body} for n, body in enumerate(asked)]
    content = "\n".join(map(json.dumps, lines)).encode()
    began = time.monotonic()
    file = gateway.post("/v1/files", files={"file": ("lines.jsonl", content)}, data={"purpose": "batch"})
    wanted = {"input_file_id": _said(file)["id"], "endpoint": ENDPOINT, "completion_window": "24h", "start": "now"}
    id = _said(gateway.post("/v1/batches", json=wanted))["id"]
    while _said(gateway.get(f"/v1/batches/{id}"))["status"] not in OVER:
        time.sleep(0.1)
    took = time.monotonic() - began
    told = _said(gateway.get(f"/ops/v1/batches/{id}"))
    if told["lines"] != {"total": len(asked), "completed": len(asked), "failed": 0}:
        sys.exit(f"error: the batch ended with {told['lines']}: {told['errors']}")
    first, last = parse_moment(told["in_progress_at"]), parse_moment(told["finalizing_at"])
    return len(asked) / (last - first).total_seconds(), took


def _said(answer: httpx.Response) -> dict[str, Any]:
    if answer.status_code != 200:
        sys.exit(f"error: {answer.request.method} {answer.request.url.path} was answered {answer.text[:500]}")
    return dict(answer.json())


def measured(parallel: int, count: int, turns: int) -> dict[str, Any]:
    """Both, in turns."""
    asked = bodies(count)
    alone: list[float] = []
    ours: list[float] = []
    until_read: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="bench-batch-") as folder,
        up(Path(folder), parallel, PROMPT_MILLISECONDS, TOKENS_PER_SECOND) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as gateway,
    ):
        [server] = json.loads((Path(folder) / "home" / "stack.json").read_text("utf-8"))["servers"]
        url = httpx.URL(server["url"])
        address = url.host, url.port or 80
        batch(gateway, asked[: 2 * parallel])  # the worker starts, and stays for the others
        for _ in range(turns):
            alone.append(asyncio.run(plain(address, asked, parallel)))
            speed, took = batch(gateway, asked)
            ours.append(speed)
            until_read.append(took)
    return {
        "parallel": parallel,
        "lines": count,
        "plain_per_second": statistics.median(alone),
        "batch_per_second": statistics.median(ours),
        "ratio": statistics.median(ours) / statistics.median(alone),
        "seconds_until_read": statistics.median(until_read),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--parallel", type=int, nargs="+", default=[4, 16], help="requests that a server answers at once"
    )
    parser.add_argument("--lines", type=int, default=1000, help="of each batch")
    parser.add_argument("--turns", type=int, default=3, help="of each")
    parser.add_argument("--json", type=Path, help="where the figures go")
    given = parser.parse_args()
    print("parallel   lines   plain client   batch   ratio   upload to results")
    found = []
    for parallel in given.parallel:
        one = measured(parallel, given.lines, given.turns)
        found.append(one)
        print(
            f"{parallel:8} {given.lines:7} {one['plain_per_second']:10.1f} /s {one['batch_per_second']:5.1f} /s"
            f" {one['ratio']:5.2f}   {one['seconds_until_read']:.1f} s",
            flush=True,
        )
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
