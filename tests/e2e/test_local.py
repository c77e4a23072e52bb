"""The one-machine stack as a process: what `up` finds or starts, what it leaves behind, and how it ends."""

import json
import os
import re
import shutil
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from app.fleet.file import FLEET_FILE
from jobs.access.keys.proofs import hash_of
from jobs.testing.models import LIBRARY
from jobs.testing.ollama.server import OllamaDouble
from jobs.testing.registry.server import RegistryDouble
from tests.support.local_stack import Shell, family, simulator_as_ollama, up
from tests.support.processes import is_running
from tests.support.waiting import PATIENCE, until


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture
def registry() -> Iterator[RegistryDouble]:
    with RegistryDouble(LIBRARY) as double:
        yield double


def test_up_says_ready_and_ends_clean(shell: Shell) -> None:
    """`up` prints `ready URL` on stdout when all of it answers, then where its page is; SIGTERM leaves no process."""
    with up(shell, "--simulate", afresh=True) as running:
        assert httpx.get(f"{running.url}/api/version", timeout=PATIENCE).status_code == 200
        assert "<title>" in httpx.get(f"{running.url}/ui", follow_redirects=True, timeout=PATIENCE).text
        assert httpx.get(f"{running.url}/ops/v1/board", timeout=PATIENCE).json()["simulated"] is True
        pids = family(running.process.pid)
        assert len(pids) == 3  # itself, a registry, a server
        code, said = running.stop()
    assert code == 0, said
    assert "SIMULATED" in said
    assert "the simulated registry has llama3.2:latest" in said
    until(lambda: not any(map(is_running, pids)))


def test_a_chat_goes_where_the_model_belongs(shell: Shell) -> None:
    """The gateway answers at `ready URL`, names who answered, and keeps count; the servers have ports of their own."""
    watched = replace(shell, extra={**shell.extra, "OLLAMA_MODAL_DEBUG_LOOP": "10s"})
    with up(watched, "--simulate", "--tier", "a10g", "--tier", "h100") as running:
        assert shell.run("pull", "tiny").returncode == 0
        talk = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "stream": False}
        answer = httpx.post(f"{running.url}/api/chat", json=talk, timeout=PATIENCE)
        assert "You said: hello" in answer.json()["message"]["content"]
        assert answer.headers["x-simulated"].startswith("SIMULATED")
        assert (answer.headers["x-served-model"], answer.headers["x-served-tier"]) == ("tiny:latest", "a10g")
        [model] = httpx.get(f"{running.url}/v1/models", timeout=PATIENCE).json()["data"]
        assert model["id"] == "tiny:latest"
        until(lambda: httpx.get(f"{running.url}/api/ps", timeout=PATIENCE).json()["models"])
        torn = shell.home / "om/simulated/models/manifests/registry.ollama.ai/library/torn/latest"
        torn.parent.mkdir(parents=True)
        torn.write_text('{"schemaVersion": 2, "lay')
        complaints = httpx.get(f"{running.url}/ops/v1/models", timeout=PATIENCE).json()["complaints"]
        assert any("torn:latest is broken" in complaint for complaint in complaints)
        tiers = {
            tier["tier"]: tier["state"]
            for tier in httpx.get(f"{running.url}/ops/v1/tiers", timeout=PATIENCE).json()["tiers"]
        }
        assert tiers == {"a10g": "ready", "h100": "ready"}
        metrics = httpx.get(f"{running.url}/metrics", timeout=PATIENCE).text
        assert 'wakes_total{cause="request",tier="a10g"} 0.0' in metrics
        assert "ollama_modal_loop_lag_seconds_count" in metrics
        assert "ollama_modal_loop_blocks_total" in metrics  # as OLLAMA_MODAL_DEBUG_LOOP has it
        assert running.url not in {server["url"] for server in json.loads(stack_of(shell))["servers"]}
        assert json.loads(stack_of(shell))["gateway"] == running.url
        code, said = running.stop()
        assert code == 0, said
        assert "/api/chat tiny:latest on a10g for anyone: success 200" in said


def stack_of(shell: Shell) -> str:
    return (shell.home / "om" / "stack.json").read_text()


def test_others_need_keys(shell: Shell) -> None:
    """Where others than this machine could ask, `up` refuses to start without keys; with keys it asks for them."""
    refused = shell.run("up", "--simulate", "--port", "0", "--host", "0.0.0.0")
    assert refused.returncode == 2
    assert "without keys the gateway answers this machine only, not '0.0.0.0'" in refused.stderr
    assert "hint: make a key first: `ollama-modal keys new NAME --scope admin`" in refused.stderr
    (shell.home / "om").mkdir(exist_ok=True)
    (shell.home / "om" / "keys").write_text(f"alice {hash_of('omk_secret')} chat\n")
    with up(shell, "--simulate", "--host", "0.0.0.0") as running:
        assert httpx.get(f"{running.url}/api/tags", timeout=PATIENCE).status_code == 401
        assert (
            httpx.get(f"{running.url}/api/tags", headers={"x-api-key": "omk_secret"}, timeout=PATIENCE).status_code
            == 200
        )
        _, said = running.stop()
        assert "omk_secret" not in said


def test_a_taken_port_is_told(shell: Shell) -> None:
    """A port that is taken is told before anything is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = shell.run("up", "--simulate", "--port", port)
    assert done.returncode == 2
    assert done.stderr.count(f"port {port} of 127.0.0.1 cannot be used") == 1
    assert "started" not in done.stderr


def test_the_end_is_told_after_what_led_to_it(shell: Shell) -> None:
    """The last line of `up` says that it has ended; the signal that ended it stands before, once."""
    with up(shell, "--simulate") as running:
        code, said = running.stop()
    lines = [line.split("INFO", 1)[-1].strip() for line in said.splitlines()]
    assert (code, lines[-1], lines.count("stopping on SIGTERM")) == (0, "up has ended", 1)


def test_each_tier_is_a_server_of_its_own(shell: Shell) -> None:
    """Each --tier answers on its own port and sees the one models directory."""
    with up(shell, "--simulate", "--tier", "a10g", "--tier", "h100"):
        shell.ask("pull", "tiny")
        stack = json.loads((shell.home / "om" / "stack.json").read_text())
        urls = [server["url"] for server in stack["servers"]]
        assert [server["tier"] for server in stack["servers"]] == ["a10g", "h100"]
        for url in urls:
            names = [model["name"] for model in httpx.get(f"{url}/api/tags", timeout=PATIENCE).json()["models"]]
            assert names == ["tiny:latest"]
    assert len(set(urls)) == 2


def kept_bytes(home: Path) -> int:
    """How much of what is being pulled would outlive a kill, by the journals of its ranges."""
    lines = (line.split() for journal in home.rglob("*.ranges") for line in journal.read_text().splitlines()[1:])
    return sum(int(stop) - int(start) for start, stop in filter(lambda span: len(span) == 2, lines))


def test_a_killed_up_takes_its_servers_along(shell: Shell) -> None:
    """When `up` is SIGKILLed, its servers end with it, and the job it held is taken up by the next `up`, at once."""
    with up(shell, "--simulate") as running:
        id = shell.run("pull", "deepseek-r1:32b", "--rate-limit", "30MB", "--no-wait").stdout.strip()
        until(lambda: kept_bytes(shell.home) > 10_000_000)
        pids = family(running.process.pid)
        running.stop(signal.SIGKILL)
        until(lambda: not any(map(is_running, pids)))
    assert shell.ask("job", id)["state"] == "running"
    with up(shell, "--simulate"):
        assert shell.ask("job", id)["attempts"][0]["outcome"] == "lost"
        done = shell.run("job", id, "--follow")
    job = shell.ask("job", id)
    assert done.returncode == 0, done.stderr
    assert [attempt["outcome"] for attempt in job["attempts"]] == ["lost", "succeeded"]
    assert job["attempts"][0]["class"] == "killed"
    fetched, resumed = job["result"]["fetched_bytes"], job["result"]["resumed_bytes"]
    assert resumed > 10_000_000
    assert fetched < job["result"]["size"] - 10_000_000
    assert fetched / job["result"]["fetch_seconds"] < 60_000_000  # of 30 that are allowed a second, and a burst
    assert " had come in an attempt before" in shell.run("job", id).stdout


def test_a_stopped_up_hands_its_job_back(shell: Shell) -> None:
    """At SIGTERM a running pull is handed back at once, with what it fetched kept for the next `up`."""
    with up(shell, "--simulate") as running:
        id = shell.run("pull", "deepseek-r1:32b", "--rate-limit", "20MB", "--no-wait").stdout.strip()
        until(lambda: shell.ask("job", id)["progress"]["completed"] > 20_000_000)
        code, _ = running.stop()
        assert code == 0
    job = shell.ask("job", id)
    assert (job["state"], job["attempts"][0]["outcome"]) == ("waiting", "retry")
    assert job["attempts"][0]["message"] == "the worker was asked to stop"


def test_one_up_a_home(shell: Shell) -> None:
    """A second `up` on the same home exits 2 and names the first one's pid."""
    with up(shell, "--simulate") as running:
        second = shell.run("up", "--simulate", "--port", "0")
    assert second.returncode == 2
    assert f"with pid {running.process.pid}" in second.stderr


def test_a_dead_server_is_started_again(shell: Shell) -> None:
    """A server that dies is started again at its old address while the rest serves on; `status` tells of it, and its
    successor dies with `up` as it would have."""
    with up(shell, "--simulate") as running:
        shell.ask("pull", "tiny")
        (server,) = servers_of(running.process.pid)
        os.kill(server, signal.SIGKILL)
        until(lambda: [pid for pid in servers_of(running.process.pid) if pid != server])
        asked = {"model": "tiny", "prompt": "hello", "stream": False}
        until(lambda: httpx.post(f"{running.url}/api/generate", json=asked, timeout=PATIENCE).status_code == 200)
        assert httpx.get(f"{running.url}/readyz", timeout=PATIENCE).status_code == 200
        (problem,) = shell.ask("status")["problems"]
        assert problem.startswith(f"ollama-local (pid {server}) ended by SIGKILL; it was started again")
        assert f"trouble  {problem}" in shell.run("status").stdout
        assert httpx.get(f"{running.url}/ops/v1/health", timeout=PATIENCE).json()["problems"] == [problem]
        pids = family(running.process.pid)
        assert len(pids) == 3
        running.stop(signal.SIGKILL)
        until(lambda: not any(map(is_running, pids)))


def servers_of(pid: int) -> list[int]:
    return [each for each in family(pid) if "jobs.testing.ollama" in _command_line(each)]


def _command_line(pid: int) -> str:
    """How it was started; nothing, of one that is gone meanwhile."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_no_engine_is_told(tmp_path: Path) -> None:
    """With no Ollama anywhere, nor the built-in engine, `up` exits 2, says where it looked, and names all four ways."""
    without = tmp_path / "without"
    without.mkdir()
    (without / "sitecustomize.py").write_text("import sys\nsys.modules['xllamacpp'] = None\n")
    process = Shell(tmp_path, {"PATH": "/nowhere", "PYTHONPATH": str(without)}).start_afresh("up", "--port", "0")
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert "no Ollama answers at http://127.0.0.1:9, and none is on PATH; nor is the built-in engine installed" in said
    for way in ("start an Ollama", "https://ollama.com/download", "uv tool install '.[engine]'", "--simulate"):
        assert way in said


def test_an_ollama_on_path_is_started(tmp_path: Path, registry: RegistryDouble) -> None:
    """An `ollama` on PATH is started on loopback with the models directory that was named, and pulls land there."""
    programs = simulator_as_ollama(tmp_path / "bin", registry.url)
    shell = Shell(tmp_path, {"PATH": f"{programs}:{os.environ['PATH']}"})
    name = f"{registry.url.removeprefix('http://')}/library/tiny"
    with up(shell, "--models", str(tmp_path / "models")) as running:
        job = shell.ask("pull", name)
        assert job["result"]["way"] == "registry"
        assert [model["name"] for model in httpx.get(f"{running.url}/api/tags", timeout=PATIENCE).json()["models"]] == [
            f"{name}:latest"
        ]
        assert (tmp_path / "models" / "manifests").is_dir()
        assert "SIMULATED" not in shell.run("status").stdout


def test_a_running_ollama_is_used(tmp_path: Path, registry: RegistryDouble) -> None:
    """An Ollama that answers at OLLAMA_HOST is used as it is; pulls go through it, for its directory is not ours."""
    with OllamaDouble(tmp_path / "theirs", registry=registry.url) as ollama:
        shell = Shell(tmp_path, {"OLLAMA_HOST": ollama.url.removeprefix("http://")})
        with up(shell) as running:
            assert (
                httpx.get(f"{running.url}/api/version", timeout=PATIENCE).json()
                == httpx.get(f"{ollama.url}/api/version", timeout=PATIENCE).json()
            )
            job = shell.ask("pull", "tiny")
            assert job["result"]["way"] == "server"
            assert job["result"]["why"] == "the models directory is not ours"
            assert [model["name"] for model in shell.ask("models")] == ["tiny:latest"]
            assert shell.run("delete", "tiny").returncode == 0
            assert shell.ask("models") == []
        assert httpx.get(f"{ollama.url}/api/version", timeout=PATIENCE).status_code == 200


def test_a_pull_that_cannot_fit_is_refused(shell: Shell) -> None:
    """A pull over the quota fails before a byte is fetched, exits 1, and its message names the sizes (P9)."""
    with up(shell, "--simulate", "--quota", "10MB"):
        done = shell.run("pull", "llama3.2")
    assert done.returncode == 1
    assert "20 MB needed, but the weights use 0 B of a quota of 10 MB" in done.stderr
    (job,) = shell.ask("jobs")
    assert [attempt["class"] for attempt in job["attempts"]] == ["disk"]
    assert not list((shell.home / "om" / "simulated" / "models" / "blobs").iterdir())


def test_the_log_tells_which_job(shell: Shell) -> None:
    """The log is one JSON object a line, each line of an attempt with its job; it is in the home."""
    with up(shell, "--simulate"):
        job = shell.ask("pull", "tiny")
    lines = [json.loads(line) for line in (shell.home / "om" / "logs" / "up.log").read_text().splitlines()]
    assert {"attempt started", "attempt ended: succeeded, job succeeded"} <= {
        line["message"] for line in lines if line.get("job") == job["id"]
    }


def test_a_directory_of_other_things_is_refused(shell: Shell, tmp_path: Path) -> None:
    """A models directory that is somebody's documents is refused before any server starts."""
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "novel.txt").write_text("once upon a time")
    done = shell.run("up", "--simulate", "--port", "0", "--models", str(documents))
    assert done.returncode == 2
    assert str(documents) in done.stderr
    assert [entry.name for entry in documents.iterdir()] == ["novel.txt"]


@pytest.mark.skipif("OLLAMA_BIN" not in os.environ, reason="no real Ollama: set OLLAMA_BIN to the path of an `ollama`")
def test_a_real_ollama_serves_what_we_published(tmp_path: Path, registry: RegistryDouble) -> None:
    """A real `ollama serve` lists a model that our own puller published, with the digest and size that we say."""
    programs = tmp_path / "bin"
    programs.mkdir()
    shutil.copy(os.environ["OLLAMA_BIN"], programs / "ollama")
    shell = Shell(tmp_path, {"PATH": f"{programs}:{os.environ['PATH']}"})
    name = f"{registry.url.removeprefix('http://')}/library/tiny"
    with up(shell, "--models", str(tmp_path / "models")) as running:
        result = shell.ask("pull", name)["result"]
        (model,) = httpx.get(f"{running.url}/api/tags", timeout=PATIENCE).json()["models"]
    assert (model["name"], model["digest"], model["size"]) == (f"{name}:latest", result["digest"], result["size"])


def test_a_fleet_is_seen_to_while_up_runs(shell: Shell, tmp_path: Path) -> None:
    """With --fleet the night runs as `up` starts: pinned models come, warmed ones are loaded the next night,
    pins are safe from prune, and `plan` has nothing left to say. Without one, `plan` says how to name it."""
    declared = FLEET_FILE.read_text("utf-8").replace("llama3.2", "tiny")
    declared = declared.replace("pinned = true\nwarmed = true", "pinned = false\nwarmed = false")
    fleet = tmp_path / "fleet.toml"
    fleet.write_text(declared)
    with up(shell, "--simulate", "--tier", "a10g", "--fleet", str(fleet)) as running:
        until(lambda: [job for job in shell.ask("jobs") if job["kind"] == "pull" and job["state"] == "succeeded"])
        [job] = shell.ask("jobs")
        assert (job["subject"], job["posted_by"]) == ("tiny:latest", "nightly")
        assert shell.ask("plan")["steps"] == []
        assert shell.run("plan").stderr.endswith("all is as it should be\n")
        assert shell.run("plan", "--url", running.url).stderr.endswith("all is as it should be\n")
        assert shell.ask("prune", "--dry-run", "--url", running.url)["throw"] == []
        shell.ask("pull", "qwen2.5:0.5b")
        assert shell.ask("prune", "--dry-run", "--unused-days", "0.0001")["throw"] == []

        fleet.write_text(declared.replace('"tiny"', '"tiny:v2"'))  # until it is read anew, the nights do not follow it
        for asked in (shell.run("plan"), shell.run("plan", "--url", running.url)):
            assert asked.stderr.endswith("all is as it should be\n")
        assert f"note: {fleet} has changed since `up` read it" in shell.run("plan").stderr
        assert {step["subject"] for step in shell.ask("plan", "--fleet", str(fleet))["steps"]} >= {"tiny:v2"}
    assert {step["subject"] for step in shell.ask("plan")["steps"]} >= {"tiny:v2"}  # so the next `up` will
    fleet.write_text("nothing = 1\n")
    refused = shell.run("up", "--simulate", "--fleet", str(fleet))
    assert refused.returncode == 2
    assert "nothing = 1: there is no such key" in refused.stderr


def test_a_server_of_each_declared_tier_is_started(shell: Shell, tmp_path: Path) -> None:
    """Whatever the fleet calls its tiers, each has a server, and each answers for the model that is declared for it."""
    fleet = tmp_path / "fleet.toml"
    declared = FLEET_FILE.read_text("utf-8").replace("pinned = true", "pinned = false")
    declared = declared.replace("[tiers.h100", "[tiers.h100-2").replace('tier = "h100"', 'tier = "h100-2"')
    declared = declared.replace('gpu = "H100"', 'gpu = "H100:2"').replace('"deepseek-r1:32b"', '"tiny"')
    fleet.write_text(declared)
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "stream": False}
    with up(shell, "--simulate", "--fleet", str(fleet)) as running:
        servers = json.loads((shell.home / "om" / "stack.json").read_text())["servers"]
        shell.ask("pull", "tiny")
        answer = httpx.post(f"{running.url}/api/chat", json=body, timeout=PATIENCE)
        route = httpx.get(f"{running.url}/ops/v1/route", params={"model": "tiny"}, timeout=PATIENCE).json()

    assert [each["tier"] for each in servers] == ["a10g", "h100-2"]
    assert (answer.status_code, answer.headers["x-served-tier"]) == (200, "h100-2")
    assert (route["tier"], route["declared"]) == ("h100-2", True)


def test_a_fleet_names_and_sets_models_here(shell: Shell, tmp_path: Path) -> None:
    """Aliases of the fleet answer, stand in `models` and `route`, and what is set for a model counts, on /v1 as well. A
    name that was made is there for the next `up`, and without a gateway `models` tells the same."""
    fleet = tmp_path / "fleet.toml"
    declared = FLEET_FILE.read_text("utf-8").replace("pinned = true", "pinned = false").replace("llama3.2", "tiny")
    declared = declared.replace("warmed = true", "context = 1024\nparameters = { top_k = 7 }", 1)
    fleet.write_text(declared.replace("[volume]", '[aliases]\n"gpt-4o" = "tiny"\n"claude-*" = "gone"\n\n[volume]'))
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}], "stream": False}
    with up(shell, "--simulate", "--tier", "a10g", "--fleet", str(fleet)) as running:
        shell.ask("pull", "tiny")
        answer = httpx.post(f"{running.url}/api/chat", json=body, timeout=PATIENCE)
        copied = httpx.post(
            f"{running.url}/api/copy", json={"source": "gpt-4o", "destination": "mine"}, timeout=PATIENCE
        )
        remote = shell.run("models", "--url", running.url)
        route = shell.run("route", "gpt-4o")
        status = shell.run("status")
        httpx.post(f"{running.url}/api/generate", json={"model": "tiny", "keep_alive": 0}, timeout=PATIENCE)
        asked_v1 = httpx.post(f"{running.url}/v1/chat/completions", json=body, timeout=PATIENCE)
        (server,) = json.loads((shell.home / "om" / "stack.json").read_text())["servers"]
        (loaded_by_v1,) = httpx.get(f"{server['url']}/api/ps", timeout=PATIENCE).json()["models"]
        shown = httpx.post(f"{server['url']}/api/show", json={"model": "tiny"}, timeout=PATIENCE).json()
        warm = shell.run("warm", "gpt-4o", "--url", running.url)
        (loaded,) = httpx.get(f"{running.url}/api/ps", timeout=PATIENCE).json()["models"]
    with up(shell, "--simulate", "--tier", "a10g", "--fleet", str(fleet)) as running:
        again = httpx.post(f"{running.url}/api/chat", json={**body, "model": "mine"}, timeout=PATIENCE)
    local = shell.run("models")
    listed = {each["name"]: each["details"]["parent_model"] for each in shell.ask("models")}

    assert (answer.json()["model"], answer.headers["x-served-model"]) == ("gpt-4o", "tiny:latest")
    assert answer.headers["x-context-length"] == "1024"
    assert copied.status_code == 200
    assert (again.status_code, again.headers["x-served-model"]) == (200, "tiny:latest")
    assert route.stdout.startswith("gpt-4o:latest is tiny:latest, which is answered on tier a10g\n")
    assert "note     of what the fleet sets" not in status.stdout
    assert (asked_v1.status_code, asked_v1.json()["model"]) == (200, "gpt-4o")
    assert loaded_by_v1["context_length"] == 1024
    assert re.search(r"top_k +7", shown["parameters"])
    assert (warm.returncode, "an alias of 'tiny:latest'" in warm.stderr) == (2, True)
    assert loaded["name"] == "tiny:latest"
    assert listed == {"gpt-4o:latest": "tiny:latest", "mine:latest": "tiny:latest", "tiny:latest": ""}
    for told in (remote, local):
        assert "gpt-4o:latest is tiny:latest" in told.stdout
        assert "mine:latest is tiny:latest" in told.stdout
        assert "claude-* is gone:latest" in told.stderr
        assert "warning: claude-* is an alias of gone:latest, which is not here" in told.stderr


def test_what_a_server_pulls_by_itself_is_not_lost(shell: Shell, tmp_path: Path) -> None:
    """Where servers see what the fleet sets, what one of them pulls by itself is a model like all others; and what is
    deleted is no longer served."""
    fleet = tmp_path / "fleet.toml"
    declared = FLEET_FILE.read_text("utf-8").replace("pinned = true", "pinned = false")
    fleet.write_text(declared.replace("warmed = true", "context = 1024", 1))
    with up(shell, "--simulate", "--tier", "a10g", "--fleet", str(fleet)) as running:
        (server,) = json.loads((shell.home / "om" / "stack.json").read_text())["servers"]
        httpx.post(f"{server['url']}/api/pull", json={"model": "tiny", "stream": False}, timeout=PATIENCE)
        until(lambda: [each["name"] for each in shell.ask("models")] == ["tiny:latest"], patience=PATIENCE)
        assert httpx.get(f"{server['url']}/api/tags", timeout=PATIENCE).json()["models"][0]["name"] == "tiny:latest"
        chat = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "stream": False}
        until(
            lambda: httpx.post(f"{running.url}/api/chat", json=chat, timeout=PATIENCE).status_code == 200,
            patience=PATIENCE,
        )
        assert shell.ask("verify", "tiny")["state"] == "succeeded"
        shell.ask("delete", "tiny")
        assert httpx.get(f"{server['url']}/api/tags", timeout=PATIENCE).json()["models"] == []


SETTINGS = {
    "OLLAMA_CONTEXT_LENGTH",
    "OLLAMA_NUM_PARALLEL",
    "OLLAMA_MAX_LOADED_MODELS",
    "OLLAMA_FLASH_ATTENTION",
    "OLLAMA_KV_CACHE_TYPE",
    "OLLAMA_KEEP_ALIVE",
    "OLLAMA_LOAD_TIMEOUT",
}


def settings_of(pid: int) -> dict[str, str]:
    """What a server process was told by its environment."""
    pairs = (each.partition("=") for each in Path(f"/proc/{pid}/environ").read_text().split("\0"))
    return {name: value for name, _, value in pairs if name in SETTINGS}


def test_declared_tiers_have_servers_as_they_are_declared(tmp_path: Path) -> None:
    """`up --fleet` alone starts a server of each declared tier, which is told all that [tiers.X.ollama] says, but for
    what the operator's own environment says; that is said, and so is what has no effect on one machine."""
    fleet = tmp_path / "fleet.toml"
    text = FLEET_FILE.read_text("utf-8").replace('"llama3.2"', '"nomic-embed-text"').replace('"q8_0"', '"q4_0"')
    fleet.write_text(text.replace('"deepseek-r1:32b"', '"qwen3:0.6b"'))
    said_by_hand = {"OLLAMA_NUM_PARALLEL": "3", "OLLAMA_KEEP_ALIVE": "", "OLLAMA_MODAL_PULL_FROM": "registry.ollama.ai"}
    shell = Shell(tmp_path, said_by_hand)
    with up(shell, "--simulate", "--fleet", str(fleet), "--quota", "5GB") as running:
        a10g, h100 = map(settings_of, servers_of(running.process.pid))
        shell.ask("pull", "qwen2.5:0.5b")
        models = {"nomic-embed-text": "a10g", "qwen3:0.6b": "h100", "qwen2.5:0.5b": "a10g"}
        until(lambda: len(httpx.get(f"{running.url}/api/tags", timeout=PATIENCE).json()["models"]) == len(models))
        routes = {
            model: httpx.get(f"{running.url}/ops/v1/route?model={model}", timeout=PATIENCE).json() for model in models
        }
        long = {"model": "qwen2.5:0.5b", "prompt": "word " * 6_000, "stream": False}
        read = httpx.post(f"{running.url}/api/generate", json=long, timeout=PATIENCE).json()["prompt_eval_count"]
        shell.ask("warm", "qwen2.5:0.5b", "--tier", "h100")
        url = next(server["url"] for server in json.loads(stack_of(shell))["servers"] if server["tier"] == "h100")
        [loaded] = httpx.get(f"{url}/api/ps", timeout=PATIENCE).json()["models"]
        _, said = running.stop()
    assert a10g == {
        "OLLAMA_CONTEXT_LENGTH": "8192",
        "OLLAMA_NUM_PARALLEL": "3",
        "OLLAMA_MAX_LOADED_MODELS": "2",
        "OLLAMA_FLASH_ATTENTION": "1",
        "OLLAMA_KV_CACHE_TYPE": "q4_0",
        "OLLAMA_KEEP_ALIVE": "-1",
        "OLLAMA_LOAD_TIMEOUT": "300s",
    }
    assert h100 == {**a10g, "OLLAMA_CONTEXT_LENGTH": "16384", "OLLAMA_LOAD_TIMEOUT": "600s"}
    assert {model: route["tier"] for model, route in routes.items()} == models
    assert "3 contexts of 8,192 tokens at q4_0" in " ".join(routes["qwen2.5:0.5b"]["facts"])
    assert read >= 6_000  # by itself, an Ollama reads 4,096
    assert loaded["context_length"] == 16_384
    assert loaded["expires_at"] > "2100"
    warned = [line.partition("WARNING ")[2] for line in said.splitlines() if "no effect" in line and "WARNING" in line]
    assert [line.partition(":")[0] for line in warned] == [
        "tiers.a10g.ollama.num_parallel = 4 and tiers.h100.ollama.num_parallel = 4 have no effect",
        "volume.quota_gb = 1000 has no effect",
        "registries.allowed has no effect",
    ]
    [modals] = [line for line in said.splitlines() if "has no effect on one machine" in line]
    assert "gpu, cpu_cores, memory_gb, min_containers" in modals


def test_a_found_ollama_stands_for_the_declared_tiers(tmp_path: Path) -> None:
    """Beside an Ollama that runs, no other is started for a fleet's tiers; what it says of them is said to have no
    effect, with what to set there."""
    with OllamaDouble(tmp_path / "theirs") as ollama:
        shell = Shell(tmp_path, {"OLLAMA_HOST": ollama.url.removeprefix("http://")})
        with up(shell, "--fleet", str(FLEET_FILE)) as running:
            assert len(family(running.process.pid)) == 1
            assert [server["tier"] for server in json.loads(stack_of(shell))["servers"]] == ["local"]
            _, said = running.stop()
    warned = [line.partition("WARNING ")[2] for line in said.splitlines() if " no effect: " in line]
    assert warned[0].startswith(f"[tiers] has no effect: the Ollama at {ollama.url} was running already")
    assert "of a10g: OLLAMA_CONTEXT_LENGTH=8192 OLLAMA_NUM_PARALLEL=4" in warned[0]
    assert warned[1].startswith("[volume], alerts.quota_percent, and pinned and warmed of [[models]] have no effect")
    assert len(warned) == 2


@pytest.mark.skipif("OLLAMA_BIN" not in os.environ, reason="no real Ollama: set OLLAMA_BIN to the path of an `ollama`")
def test_a_real_ollama_takes_what_is_declared(tmp_path: Path) -> None:
    """A real `ollama serve` for each declared tier understands all that the fleet says of it, as its log tells."""
    programs = tmp_path / "bin"
    programs.mkdir()
    shutil.copy(os.environ["OLLAMA_BIN"], programs / "ollama")
    shell = Shell(tmp_path, {"PATH": f"{programs}:{os.environ['PATH']}"})
    fleet = tmp_path / "fleet.toml"
    fleet.write_text(FLEET_FILE.read_text("utf-8").replace("pinned = true", "pinned = false"))
    with up(shell, "--fleet", str(fleet), "--models", str(tmp_path / "models")) as running:
        _, said = running.stop()
    log = (shell.home / "om/logs/ollama-h100.log").read_text()
    forever = "2562047h47m16.854775807s"
    for pair in (
        *("OLLAMA_CONTEXT_LENGTH:16384", "OLLAMA_NUM_PARALLEL:4", "OLLAMA_MAX_LOADED_MODELS:2"),
        *("OLLAMA_KV_CACHE_TYPE:q8_0", f"OLLAMA_KEEP_ALIVE:{forever}", "OLLAMA_LOAD_TIMEOUT:10m0s"),
        "OLLAMA_FLASH_ATTENTION:true",
    ):
        assert f" {pair} " in log or f"[{pair} " in log
    assert "a10g, h100 are servers of their own on one machine" in said


@pytest.mark.parametrize("command", ["up", "plan", "windows"])
def test_a_wrong_fleet_is_told_an_error_a_line(shell: Shell, tmp_path: Path, command: str) -> None:
    """Each of thirty errors is a whole line of its own in a pipe and on a narrow terminal alike; the call was wrong."""
    wrong = "".join(f'[[models]]\nname = "model {n}"\ntier = "a10g"\n' for n in range(30))
    fleet = tmp_path / "fleet.toml"
    fleet.write_text(FLEET_FILE.read_text("utf-8").replace("[volume]", f"{wrong}\n[volume]", 1))
    done = Shell(shell.home, {"COLUMNS": "60"}).run(command, "--fleet", str(fleet))
    first, *problems = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert first == f"error: {fleet} is refused:"
    assert problems == [
        f"  models[{n + 2}].name = 'model {n}': 'model {n}' is not a model name: bad model 'model {n}'; a name looks"
        " like llama3.2, deepseek-r1:32b, user/model:tag or hf.co/user/repo:Q4_K_M"
        for n in range(30)
    ]
    fleet.write_text("tiers = [\n")
    done = shell.run(command, "--fleet", str(fleet))
    assert (done.returncode, done.stderr) == (2, f"error: {fleet} is no TOML: Invalid value (at end of document)\n")


def test_without_a_fleet_nothing_is_declared(shell: Shell) -> None:
    """`plan` and `prune` on a home where nothing ran, and `plan` without a fleet file, say what to do."""
    assert "start one: `ollama-modal up`" in shell.run("plan").stderr
    assert "start one: `ollama-modal up`" in shell.run("prune", "--dry-run").stderr
    with up(shell, "--simulate"):
        told = shell.run("plan")
    assert (told.returncode, told.stdout) == (2, "")
    assert "name one: `ollama-modal plan --fleet FILE`" in told.stderr
