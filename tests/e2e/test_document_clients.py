"""What app/clients.md and app/README show to clients of the gateway, run and asked against a stack that runs.

Libraries that the suite itself has are run always; the larger ones where CLIENTS_PYTHON names a Python that has them
(`uv pip install --group clients`); of programs that are too large, what they send is sent.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.document_commands import blocks
from tests.support.local_stack import Shell, up
from tests.support.processes import free_port
from tests.support.waiting import PATIENCE, until

CLIENTS_PYTHON = os.environ.get("CLIENTS_PYTHON")
WITH_CLIENTS = pytest.mark.skipif(
    not CLIENTS_PYTHON, reason="CLIENTS_PYTHON names no Python with the group `clients` of pyproject.toml"
)
HELLO = [{"role": "user", "content": "hello"}]
PROGRAMS = blocks("app/clients.md", "python")


@dataclass(frozen=True)
class Gateway:
    """One that runs, a chat key, an admin key, and the key that app/README makes for Prometheus."""

    url: str
    chat: str
    admin: str
    prometheus: str


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    shell = Shell(tmp_path_factory.mktemp("clients"))
    scopes = {"chat": "chat", "admin": "admin", "prometheus": "admin-only"}
    made = {name: shell.ask("keys", "new", name, "--line", "--scope", scope) for name, scope in scopes.items()}
    home = shell.home / "om"
    home.mkdir(exist_ok=True)
    (home / "keys").write_text("".join(f"{each['line']}\n" for each in made.values()))
    with up(shell, "--simulate") as running:
        assert shell.run("pull", "llama3.2").returncode == 0
        yield Gateway(running.url, **{name: each["key"] for name, each in made.items()})


def package_of(program: str) -> str:
    """What a program shows the use of: whatever it imports from, beside the standard library."""
    [package] = re.findall(r"(?m)^from (\w+)", program)
    return str(package)


def interpreter(package: str) -> str:
    """The suite's own Python where that has the package, else the one that was named."""
    if importlib.util.find_spec(package):
        return sys.executable
    return CLIENTS_PYTHON or pytest.skip(f"CLIENTS_PYTHON names no Python with {package}; with one this runs")


def answer(python: str, program: str, gateway: Gateway, home: Path) -> str:
    """What the program prints, run as its reader would, with a chat key in its environment."""
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "OLLAMA_MODAL_URL": gateway.url,
        "OLLAMA_MODAL_KEY": gateway.chat,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # no list of prices is fetched
    }
    done = subprocess.run(
        [python, "-c", program], env=environ, cwd=home, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("program", PROGRAMS, ids=package_of)
def test_programs_get_an_answer(program: str, gateway: Gateway, tmp_path: Path) -> None:
    """Each program of app/clients.md, as it stands there, prints the model's answer."""
    assert "You said: hello" in answer(interpreter(package_of(program)), program, gateway, tmp_path)


def test_the_libraries_of_the_suite_are_shown() -> None:
    """The page shows the three libraries that this suite has, and more that it has not."""
    shown = [package_of(program) for program in PROGRAMS]
    assert {each for each in shown if importlib.util.find_spec(each)} == {"openai", "ollama", "anthropic"}
    assert len(shown) == 9


def test_curl_posts_a_batch(gateway: Gateway, tmp_path: Path) -> None:
    """The commands for curl, as they stand there, upload a file, post a batch, and tell of it."""
    [script] = [each for each in blocks("app/clients.md", "sh") if "/v1/batches" in each]
    body = {"model": "llama3.2", "messages": HELLO}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    (tmp_path / "prompts.jsonl").write_text(json.dumps(line))
    environ = {"PATH": os.environ["PATH"], "OLLAMA_MODAL_URL": gateway.url, "OLLAMA_MODAL_KEY": gateway.chat}
    done = subprocess.run(
        ["sh", "-euc", script], env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    batch = json.loads(done.stdout)
    assert (batch["object"], batch["endpoint"]) == ("batch", "/v1/chat/completions")


# -- configurations ----------------------------------------------------------------------------------------------------


def test_continue_is_told_a_model_an_address_and_a_key(gateway: Gateway) -> None:
    """With the address and the key in their places, what Continue's configuration names is answered."""
    _, text = blocks("app/clients.md", "yaml")
    text = text.replace("https://…-gateway.us-east.modal.direct", gateway.url).replace("omk_…", gateway.chat)
    [model] = yaml.safe_load(text)["models"]
    assert model["provider"] == "openai"
    got = httpx.post(
        f"{model['apiBase']}/chat/completions",
        json={"model": model["model"], "messages": HELLO},
        headers={"authorization": f"Bearer {model['apiKey']}"},
        timeout=PATIENCE,
    )
    assert "hello" in got.json()["choices"][0]["message"]["content"]


@WITH_CLIENTS
def test_litellm_routes_by_the_proxys_configuration(gateway: Gateway, tmp_path: Path) -> None:
    """LiteLLM's own router, given what its proxy's configuration holds, gets an answer."""
    text, _ = blocks("app/clients.md", "yaml")
    models = yaml.safe_load(text)["model_list"]
    program = (
        f"import json, litellm\nrouter = litellm.Router(model_list=json.loads({json.dumps(models)!r}))\n"
        f"print(router.completion(model={models[0]['model_name']!r}, messages={HELLO!r}).choices[0].message.content)\n"
    )
    assert "You said: hello" in answer(str(CLIENTS_PYTHON), program, gateway, tmp_path)


# -- Open WebUI --------------------------------------------------------------------------------------------------------

OPEN_WEBUI = {
    "accept": "*/*",
    "accept-encoding": "gzip, deflate, br",
    "content-type": "application/json",
    "user-agent": "Python/3.11 aiohttp/3.14.5",
}
"""What version 0.12.4 sends beside `Host`, the key and the length, as it was seen on the wire."""


@pytest.mark.parametrize(
    ("method", "path", "body", "says"),
    [
        ("GET", "/api/version", None, '"version"'),
        ("GET", "/api/tags", None, '"llama3.2:latest"'),
        ("GET", "/api/ps", None, '"models"'),
        ("GET", "/v1/models", None, '"llama3.2:latest"'),
        ("POST", "/api/show", {"model": "llama3.2:latest"}, '"capabilities"'),
        ("POST", "/api/chat", {"model": "llama3.2:latest", "messages": HELLO, "stream": True}, '"done":true'),
        ("POST", "/v1/chat/completions", {"model": "llama3.2:latest", "stream": True, "messages": HELLO}, "[DONE]"),
    ],
)
def test_open_webui_is_answered(gateway: Gateway, method: str, path: str, body: Any, says: str) -> None:
    """Whatever Open WebUI asks to connect, to list and to chat is answered to a chat key, by either connection."""
    headers = {**OPEN_WEBUI, "authorization": f"Bearer {gateway.chat}"}
    got = httpx.request(method, gateway.url + path, json=body, headers=headers, timeout=PATIENCE)
    assert got.status_code == 200, got.text
    assert says in got.text


def test_open_webuis_buttons_to_pull_and_delete(gateway: Gateway) -> None:
    """As the page says, its pull, which is always `insecure`, is a pull like any other; it deletes as others do."""
    headers = {**OPEN_WEBUI, "authorization": f"Bearer {gateway.admin}"}
    got = httpx.post(
        f"{gateway.url}/api/pull", json={"model": "tiny", "insecure": True}, headers=headers, timeout=PATIENCE
    )
    assert got.status_code == 200
    assert json.loads(got.text.splitlines()[-1]) == {"status": "success"}
    gone = httpx.request(
        "DELETE", f"{gateway.url}/api/delete", json={"model": "tiny"}, headers=headers, timeout=PATIENCE
    )
    assert gone.status_code == 200


# -- Prometheus --------------------------------------------------------------------------------------------------------


def scrape_config(gateway: Gateway, folder: Path) -> dict[str, Any]:
    """What app/README shows, with this gateway's scheme, address and key in their places."""
    [text] = blocks("app/README.md", "yaml")
    key = folder / "ollama-modal.key"
    key.write_text(f"{gateway.prometheus}\n")
    places = {
        "https ": "http ",
        "…-gateway.us-east.modal.direct": gateway.url.removeprefix("http://"),
        "/etc/prometheus/ollama-modal.key": str(key),
        "30s": "1s",
    }
    for shown, here in places.items():
        assert shown in text
        text = text.replace(shown, here)
    config: dict[str, Any] = yaml.safe_load(text)
    return config


def test_the_scrape_config_reaches_the_meters(gateway: Gateway, tmp_path: Path) -> None:
    """Read as Prometheus reads it, the shown configuration asks the gateway's own path with a key that it lets in."""
    [job] = scrape_config(gateway, tmp_path)["scrape_configs"]
    [[target]] = [each["targets"] for each in job["static_configs"]]
    url = f"{job['scheme']}://{target}{job['metrics_path']}"
    key = Path(job["authorization"]["credentials_file"]).read_text().strip()

    got = httpx.get(url, headers={"authorization": f"Bearer {key}"}, timeout=PATIENCE)

    assert got.status_code == 200, got.text
    assert "ollama_modal_requests_total" in got.text
    assert httpx.get(url, timeout=PATIENCE).status_code == 401


@contextmanager
def prometheus(config: dict[str, Any], folder: Path) -> Iterator[str]:
    """A Prometheus with this configuration; its address."""
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    subprocess.run(["promtool", "check", "config", folder / "prometheus.yml"], check=True, capture_output=True)
    address = f"127.0.0.1:{free_port()}"
    words = [
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}",
        f"--web.listen-address={address}",
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(["prometheus", *words], stdout=log, stderr=log)
        try:
            yield f"http://{address}"
        finally:
            process.terminate()
            process.wait(timeout=PATIENCE)


@pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="no prometheus with promtool is on PATH; on Debian `apt-get install prometheus` lifts this",
)
def test_a_real_prometheus_scrapes_by_it(gateway: Gateway, tmp_path: Path) -> None:
    """Prometheus takes the shown configuration, finds the gateway up, and has its meters."""
    with prometheus(scrape_config(gateway, tmp_path), tmp_path) as url:

        def asked() -> list[Any]:
            try:
                got = httpx.get(f"{url}/api/v1/query", params={"query": "ollama_modal_store_up"}, timeout=PATIENCE)
                return list(got.json()["data"]["result"]) if got.status_code == 200 else []
            except httpx.TransportError:
                return []

        until(asked, "the meter in prometheus")
        [meter] = asked()

    assert meter["value"][1] == "1"
    assert meter["metric"]["job"] == "ollama-modal"
