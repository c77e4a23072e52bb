"""Who is kept out of a gateway on loopback that asks for no key: pages of others, by whatever trick they come."""

import asyncio
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.gateway.cross_origin import Origins
from app.gateway.origin_guard import OriginGuard, is_local
from tests.support.local_stack import Shell, up
from tests.support.waiting import PATIENCE


async def inside(_: MutableMapping[str, Any], __: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"inside"})


def ask(path: str = "/api/pull", method: str = "POST", **headers: str) -> httpx.Response:
    async def once() -> httpx.Response:
        transport = httpx.ASGITransport(app=OriginGuard(inside, Origins()))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:11500") as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(once())


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"host": "localhost:11500"},
        {"host": "[::1]:11500"},
        {"host": "192.168.1.20:11500"},
        {"host": "ollama.internal"},
        {"origin": "http://127.0.0.1:11500"},
        {"origin": "http://localhost:3000"},
        {"origin": "tauri://anything"},
    ],
)
def test_who_is_at_home_comes_in(headers: dict[str, str]) -> None:
    """Programs, this gateway's own page, pages of this machine, and programs with pages are let through."""
    assert ask(**headers).text == "inside"


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},  # a name that was turned to this address
        {"host": "127.0.0.1.evil.example:11500"},
        {"host": "8.8.8.8"},
        {"host": "[::1"},
        {"origin": "http://evil.example"},
        {"origin": "https://localhost.evil.example"},
        {"origin": "http://192.168.1.1"},  # a neighbour's page is not ours
        {"origin": "null"},
        {"origin": "http://[bad"},
    ],
)
def test_pages_of_others_stay_outside(headers: dict[str, str]) -> None:
    """A page of somebody else gets 403, with what was wrong and what to do."""
    answer = ask(**headers)

    assert answer.status_code == 403
    assert "ollama-modal keys new" in answer.json()["error"]


def test_the_refusal_has_the_shape_of_the_dialect() -> None:
    """Whoever asks like OpenAI or Anthropic is refused in that shape; HEAD has no body."""
    foreign_origin = {"host": "evil.example"}

    assert ask("/v1/chat/completions", **foreign_origin).json()["error"]["message"]
    assert ask("/v1/messages", **foreign_origin).json()["type"] == "error"
    assert ask("/", "HEAD", **foreign_origin).content == b""


@given(st.text(max_size=60))
def test_any_name_is_judged(name: str) -> None:
    """Whatever stands in a header is either at home or not; nothing breaks."""
    assert is_local(name) in {True, False}
    assert not is_local(f"{name.replace('%', '')}.example")


def test_up_without_keys_keeps_pages_of_others_out(tmp_path: Path) -> None:
    """`ollama-modal up` answers its own machine, and no page that was turned to it."""
    with up(Shell(tmp_path), "--simulate") as running, httpx.Client(base_url=running.url, timeout=PATIENCE) as client:
        pull = {"kind": "pull", "model": "tiny"}
        assert client.get("/api/tags").status_code == 200
        assert client.post("/ops/v1/jobs", json=pull, headers={"host": "evil.example"}).status_code == 403
        told = client.post("/api/pull", content=b'{"model": "tiny"}', headers={"origin": "http://evil.example"})
        assert told.status_code == 403
        assert client.get("/ops/v1/jobs").json()["jobs"] == []
