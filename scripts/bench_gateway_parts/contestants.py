"""What is measured: ours, the others, and none at all, each in front of one upstream, as its documents set it up.

What others do by default they do here too, but for what would keep the load out: Olla's limits of a hundred requests a
minute and llama-swap's of ten requests at once are lifted. The settings of Olla are told in its
docs/content/configuration/reference.md, those of llama-swap in its config.example.yaml.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from free_ports import free_port

from bench_gateway_parts.processes import first_line, pinned, running

ROOT = Path(__file__).resolve().parents[2]
PYTHON = str(ROOT / ".venv/bin/python")
MODEL = "bench"
LITELLM = "litellm[proxy]>=1.80,<2"
STARTED_SECONDS = 120
_CHAT = "/v1/chat/completions"


@dataclass(frozen=True)
class Contestant:
    """A gateway that runs: its port, the process that is measured, where it takes requests, and the key it wants."""

    port: int
    pid: int | None
    path: str = _CHAT
    key: str = "none"


Start = Callable[[int, Path], contextlib.AbstractContextManager[Contestant]]


def answers(contestant: Contestant) -> bool:
    request = urllib.request.Request(
        f"http://127.0.0.1:{contestant.port}{contestant.path}",
        json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {contestant.key}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310 - an address of ours
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def answering(contestant: Contestant, process: subprocess.Popen[str], log: Path) -> Contestant:
    """The contestant, once it answers."""
    until = time.monotonic() + STARTED_SECONDS
    while not answers(contestant):
        if process.poll() is not None or time.monotonic() > until:
            sys.exit(f"error: {process.args!r} does not answer\n{log.read_text('utf-8')[-2000:]}")
        time.sleep(0.2)
    return contestant


@contextlib.contextmanager
def none(upstream: int, scratch: Path) -> Iterator[Contestant]:  # noqa: ARG001 - all contestants are called alike
    yield Contestant(upstream, None)


@contextlib.contextmanager
def ours(upstream: int, scratch: Path) -> Iterator[Contestant]:
    """The whole one-machine stack, as `ollama-modal up` composes it around an Ollama that is there."""
    environ = {
        **os.environ, "OLLAMA_MODAL_HOME": str(scratch / "home"), "OLLAMA_HOST": f"127.0.0.1:{upstream}",
    }  # fmt: skip
    log = scratch / "ours.log"
    words = [*pinned("gateway"), PYTHON, "-m", "app.local", "up", "--port", "0"]
    with running(words, log, environ, folder=ROOT, is_heard=True) as process:
        port = int(first_line(process, log).rpartition(":")[2])
        yield answering(Contestant(port, process.pid), process, log)


@contextlib.contextmanager
def nginx(upstream: int, scratch: Path) -> Iterator[Contestant]:
    """One worker that passes bytes on and does nothing else: the floor."""
    port, config, log = free_port(), scratch / "nginx.conf", scratch / "nginx.log"
    config.write_text(
        f"""daemon off; master_process off; pid "{scratch}/nginx.pid"; error_log "{scratch}/nginx.err";
events {{ worker_connections 4096; }}
http {{
  access_log off; client_body_temp_path "{scratch}"; proxy_temp_path "{scratch}"; fastcgi_temp_path "{scratch}";
  uwsgi_temp_path "{scratch}"; scgi_temp_path "{scratch}"; client_body_buffer_size 128k;
  upstream up {{ server 127.0.0.1:{upstream}; keepalive 1024; keepalive_requests 10000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=2048; keepalive_requests 10000000;
    location / {{ proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }}
  }}
}}
""",
        "utf-8",
    )
    words = [*pinned("gateway"), str(found("nginx")), "-c", str(config), "-e", str(scratch / "nginx.err")]
    with running(words, log) as process:
        yield answering(Contestant(port, process.pid), process, log)


@contextlib.contextmanager
def litellm(upstream: int, scratch: Path) -> Iterator[Contestant]:
    """One worker, as many as we have; its openai provider passes on what the caller sent most directly."""
    port, config, log = free_port(), scratch / "litellm.json", scratch / "litellm.log"
    model = {"model": f"openai/{MODEL}", "api_base": f"http://127.0.0.1:{upstream}/v1", "api_key": "none"}
    config.write_text(json.dumps({"model_list": [{"model_name": MODEL, "litellm_params": model}]}), "utf-8")
    environ = {
        **(litellm_environment() or {}), "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR",
        "LITELLM_MASTER_KEY": "sk-bench", "LITELLM_TELEMETRY": "False", "PYTHONWARNINGS": "ignore",
    }  # fmt: skip
    at = ["--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    with running([*pinned("gateway"), *litellm_command(), *at], log, environ) as process:
        yield answering(Contestant(port, process.pid, key="sk-bench"), process, log)


@contextlib.contextmanager
def olla(upstream: int, scratch: Path) -> Iterator[Contestant]:
    """One endpoint that speaks OpenAI. It opens fifty connections to an endpoint at most, which no setting changes."""
    port, config, log = free_port(), scratch / "olla.yaml", scratch / "olla.log"
    endpoint = {
        "url": f"http://127.0.0.1:{upstream}", "name": "upstream", "type": "openai-compatible", "priority": 100,
        "model_url": "/v1/models", "health_check_url": "/v1/models", "check_interval": "5s", "check_timeout": "2s",
    }  # fmt: skip
    unlimited = dict.fromkeys(
        ("global_requests_per_minute", "per_ip_requests_per_minute", "health_requests_per_minute"), 0
    )
    settings = {
        "server": {"host": "127.0.0.1", "port": port, "rate_limits": unlimited},
        "discovery": {"type": "static", "static": {"endpoints": [endpoint]}},
    }
    config.write_text(json.dumps(settings), "utf-8")  # JSON is YAML
    words = [*pinned("gateway"), str(found("olla")), "-c", str(config)]
    with running(words, log, folder=scratch) as process:
        path = f"/olla/openai{_CHAT}"
        yield answering(Contestant(port, process.pid, path), process, log)


@contextlib.contextmanager
def llama_swap(upstream: int, scratch: Path) -> Iterator[Contestant]:
    """One model whose server runs already: what it starts for it sleeps."""
    port, config, log = free_port(), scratch / "llama-swap.yaml", scratch / "llama-swap.log"
    model = {
        "cmd": "sleep 1000000",
        "proxy": f"http://127.0.0.1:{upstream}",
        "checkEndpoint": "none",
        "concurrencyLimit": 1000,
    }
    config.write_text(json.dumps({"models": {MODEL: model}}), "utf-8")
    words = [*pinned("gateway"), str(found("llama-swap")), "-config", str(config), "-listen", f"127.0.0.1:{port}"]
    with running(words, log, folder=scratch) as process:
        yield answering(Contestant(port, process.pid), process, log)


CONTESTANTS: dict[str, Start] = {
    "none": none,
    "ollama-modal": ours,
    "nginx": nginx,
    "litellm": litellm,
    "olla": olla,
    "llama-swap": llama_swap,
}


def absence(name: str) -> str | None:
    """Why this one cannot take part here."""
    if name in {"nginx", "olla", "llama-swap"} and found(name) is None:
        return f"no {name} on PATH"
    if name == "litellm" and litellm_environment() is None:
        return f"uv could not install {LITELLM}"
    return None


def found(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def litellm_command() -> Sequence[str]:
    uv = shutil.which("uv") or str(ROOT / ".tools/uv/bin/uv")
    return [uv, "run", "--quiet", "--no-project", "--isolated", "--python", PYTHON, "--with", LITELLM, "litellm"]


def litellm_environment() -> dict[str, str] | None:
    """What lets uv fetch it: as it is, or with the machine's own certificates."""
    plain = {**os.environ, "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR", str(ROOT / ".tools/cache"))}
    for each in (plain, {**plain, "UV_SYSTEM_CERTS": "1", "UV_NATIVE_TLS": "1"}):
        probe = [*litellm_command()[:-1], "python", "-c", ""]
        if subprocess.run(probe, env=each, check=False, stdout=subprocess.DEVNULL).returncode == 0:
            return each
    return None
