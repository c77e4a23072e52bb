"""What Open WebUI asks of an Ollama: its package is too large for this, so its requests are sent as it sends them."""

import json

import httpx
from trials import EMBEDDER, HELLO, KEY, MODEL, SMALL, URL, trial

client = httpx.Client(base_url=URL, headers={"Authorization": f"Bearer {KEY}"}, timeout=60)


def whole(method: str, path: str, body: dict[str, object] | None = None) -> httpx.Response:
    content = None if body is None else json.dumps(body)
    answer = client.request(method, path, content=content, headers={"Content-Type": "application/json"})
    answer.raise_for_status()
    return answer


@trial
def version() -> None:
    assert whole("GET", "/api/version").json()["version"]


@trial
def lists() -> None:
    assert MODEL in {model["model"] for model in whole("GET", "/api/tags").json()["models"]}
    whole("GET", "/api/ps")
    whole("GET", "/v1/models")


@trial
def pull() -> None:
    lines = whole("POST", "/api/pull", {"model": SMALL, "name": SMALL, "insecure": True}).text.splitlines()
    assert json.loads(lines[-1]) == {"status": "success"}


@trial
def shows() -> None:
    assert whole("POST", "/api/show", {"model": SMALL, "name": SMALL}).json()["details"]


@trial
def chat() -> None:
    body = {
        "model": MODEL,
        "messages": HELLO,
        "stream": True,
        "options": {"temperature": 0.8, "stop": ["###"], "num_ctx": 2048},
        "keep_alive": "5m",
        "format": None,
        "think": None,
    }
    lines = whole("POST", "/api/chat", body).text.splitlines()
    assert json.loads(lines[-1])["done"]


@trial
def openai_chat() -> None:
    assert "[DONE]" in whole("POST", "/v1/chat/completions", {"model": MODEL, "messages": HELLO, "stream": True}).text


@trial
def embed() -> None:
    assert whole("POST", "/api/embed", {"model": EMBEDDER, "input": ["one", "two"]}).json()["embeddings"]


@trial
def unload() -> None:
    assert whole("POST", "/api/generate", {"model": MODEL, "keep_alive": 0, "prompt": ""}).json()["done"]


@trial
def delete() -> None:
    whole("DELETE", "/api/delete", {"model": SMALL, "name": SMALL})
