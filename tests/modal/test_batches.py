"""Batches of a deployment: in time for their deadline by one wake for two, through a killed worker, in a window."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from modal.client import Client

from app.fleet.schema import declared
from app.resources import server_class
from app.scheduler.wake_budget import Wakes
from jobs.core.clock import SystemClock
from jobs.store import keys
from jobs.testing.models import LIBRARY
from jobs.testing.registry.server import RegistryDouble
from tests.modal.platform.containers import Container, Settings
from tests.modal.platform.isolation import unshare
from tests.modal.platform.plane import Platform
from tests.support.checkout import ROOT
from tests.support.deployments import (
    ADMIN_KEY,
    APP,
    LEASE,
    TOKEN,
    deploy,
    deployed_facts,
    deployed_ledger,
    let_lease_run_out,
    modal_command,
    publish,
    tick,
    with_secrets,
)
from tests.support.processes import free_port, gpu_programs
from tests.support.waiting import PATIENCE, until

if TYPE_CHECKING:
    from subprocess import CompletedProcess

pytestmark = pytest.mark.skipif(not unshare(), reason="this kernel lets nobody mount, so no volume can be at /models")

WINDOW = '\n[[windows]]\ntier = "h100"\nstart = "0 * * * *"\nhours = 24\nmodels = ["deepseek-r1:32b"]\n'  # always open
SMALL, LARGE = "llama3.2", "deepseek-r1:32b"
TIERS = {SMALL: "a10g", LARGE: "h100"}


@dataclass
class Deployed:
    """A deployment, and a caller of its gateway."""

    platform: Platform
    client: Client
    asking: httpx.Client
    ports: dict[str, int]

    @property
    def facts(self) -> Any:
        return deployed_facts(self.client)

    def serving(self, model: str) -> None:
        """The next server to start is of this model's tier: all of them share one network here."""
        self.platform.settings.environ["OLLAMA_HOST"] = f"127.0.0.1:{self.ports[TIERS[model]]}"

    def servers(self, model: str, *, alive: bool = True) -> list[Container]:
        return self.platform.containers(server_class(TIERS[model]), alive=alive)

    def used(self, model: str) -> int:
        return Wakes(self.facts, declared()).used(TIERS[model], SystemClock().now())

    def post(self, model: str, lines: int, **said: Any) -> str:
        """Have so many lines run; the id of the batch."""
        asked = {
            "input_file_id": self.upload(model, lines),
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            **said,
        }
        return str(self._answer("POST", "/v1/batches", json=asked)["id"])

    def upload(self, model: str, lines: int) -> str:
        """Bring a file of so many lines; its id."""
        content = "".join(f"{json.dumps(line(model, number))}\n" for number in range(1, lines + 1))
        file = self._answer("POST", "/v1/files", data={"purpose": "batch"}, files={"file": ("lines.jsonl", content)})
        return str(file["id"])

    def batch(self, id: str) -> dict[str, Any]:
        found: dict[str, Any] = self._answer("GET", f"/v1/batches/{id}")
        return found

    def waiting(self, id: str) -> dict[str, Any]:
        """A batch, once it has asked whether it may begin, and waits."""
        until(lambda: self.batch(id)["note"])
        until(lambda: deployed_ledger(self.client).reader.latest("batch", id).state == "waiting")  # type: ignore[union-attr]
        return self.batch(id)

    def done(self, id: str) -> dict[str, Any]:
        until(lambda: self.batch(id)["status"] not in {"validating", "in_progress", "finalizing"})
        found = self.batch(id)
        assert found["status"] == "completed", found
        return found

    def answers(self, id: str) -> dict[str, str]:
        """What each line was answered, by the results as anybody downloads them: in their order, each once."""
        file = self.batch(id)["output_file_id"]
        text = self.asking.get(f"/v1/files/{file}/content").text
        lines = [json.loads(each) for each in text.splitlines()]
        ids = [each["custom_id"] for each in lines]
        assert len(ids) == len(set(ids))
        assert {each["response"]["status_code"] for each in lines} == {200}
        return {each["custom_id"]: each["response"]["body"]["choices"][0]["message"]["content"] for each in lines}

    def cost(self, id: str) -> list[dict[str, Any]]:
        """What `cost` says of a batch."""
        return [use for use in self._answer("GET", "/ops/v1/cost")["uses"] if use["batch"] == id]

    def estimated(self, model: str, lines: int) -> dict[str, Any]:
        """What is told of a batch of so many lines."""
        counted = {"model": model, "lines": lines, "prompt_bytes": 6 * lines, "max_tokens": 8 * lines}
        found: dict[str, Any] = self._answer("POST", "/ops/v1/batches/estimate", json={"models": [counted]})
        return found

    def _answer(self, method: str, path: str, **more: Any) -> Any:
        answer = self.asking.request(method, path, **more)
        assert answer.status_code == 200, answer.text
        return answer.json()


def line(model: str, number: int) -> dict[str, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": f"say {number}"}], "max_tokens": 8}
    return {"custom_id": f"line-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("app", "jobs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "requirements.lock", folder)
    return folder


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, checkout: Path) -> Iterator[Platform]:
    programs = tmp_path_factory.mktemp("bin")
    gpu_programs(programs)
    environ = {
        **LEASE,
        "OLLAMA_MODAL_PROBE_SECONDS": "1",
        "OLLAMA_MODAL_REFRESH_SECONDS": "1",
        "OLLAMA_MODAL_TRUST_SECONDS": "1",
        "OLLAMA_MODAL_GATEWAY_PORT": str(free_port()),
        "OLLAMA_SIM_TOKENS_PER_SECOND": "40",
    }
    settings = Settings(path_prefix=programs, environ=environ, idle_seconds=60, commit_seconds=0.5)
    with (
        pytest.MonkeyPatch.context() as environment,
        RegistryDouble(LIBRARY) as registry,
        Platform(settings=settings) as platform,
    ):
        environment.setenv("OLLAMA_MODAL_REGISTRY", registry.url)
        with_secrets(platform)
        deploy(platform, folder=checkout)
        yield platform


@pytest.fixture(scope="module")
def deployed(platform: Platform) -> Iterator[Deployed]:
    """Nothing is awake but the gateway."""
    ports = {tier: free_port() for tier in TIERS.values()}
    for tier, port in ports.items():
        token = (TOKEN["MODAL_PROXY_TOKEN_ID"], TOKEN["MODAL_PROXY_TOKEN_SECRET"])
        platform.open_server(APP, server_class(tier), port=port, token=token)
    url = f"http://127.0.0.1:{platform.settings.environ['OLLAMA_MODAL_GATEWAY_PORT']}"
    platform.apps.server_urls[APP, "Gateway"] = url
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    with platform.client() as client, httpx.Client(base_url=url, headers=headers, timeout=PATIENCE) as asking:
        publish(platform, client, SMALL, LARGE)
        platform.wait_ready(platform.start_server(APP, "Gateway"))
        yield Deployed(platform, client, asking, ports)


@pytest.mark.timeout(600)  # each of these has containers start that import all of it
def test_two_batches_share_the_wake_that_a_deadline_asks_for(deployed: Deployed) -> None:
    """Both wait for a GPU that is awake anyway. None comes; so the one whose deadline is near wakes one, the other runs
    with it, and right after the last line the tier is asleep again: one start, one wake."""
    deployed.serving(SMALL)
    patient = deployed.post(SMALL, 3, start="awake")
    waits = deployed.waiting(patient)
    assert waits["note"].startswith("waits for a GPU of a10g to be awake; it begins at ")
    longest = declared().tier("a10g").longest_start.total_seconds()
    seconds = longest + 1.25 * waits["estimate"]["seconds"] + 20
    urgent = deployed.post(SMALL, 3, start="awake", completion_window=f"{seconds:.0f}s")
    deployed.waiting(urgent)
    assert not deployed.servers(SMALL, alive=False)
    assert deployed.used(SMALL) == 0

    while deployed.batch(urgent)["status"] == "validating":
        tick(deployed.platform)
    for id in (urgent, patient):
        assert deployed.done(id)["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
        assert len(deployed.answers(id)) == 3

    [server] = deployed.servers(SMALL, alive=False)
    assert deployed.platform.wait_exit(server) == 0, server.output
    report = deployed.facts.get(keys.server("a10g", server.id))
    assert (report["state"], report["why"]) == (
        "ended",
        "the batches that woke it are over, and nobody else has used it",
    )
    assert deployed.used(SMALL) == 1


@pytest.mark.timeout(600)
def test_a_worker_that_is_killed_loses_nothing(deployed: Deployed) -> None:
    """SIGKILLed in the midst of a batch: another one goes on with what has no result, and each line has one. What a
    person downloads through the gateway is what the workers committed. What all of it took is in `cost`, and the next
    batch is told by it."""
    deployed.serving(SMALL)
    id = deployed.post(SMALL, 300, start="now")
    job = deployed_ledger(deployed.client).reader.latest("batch", id)
    assert job is not None
    until(lambda: deployed.batch(id)["request_counts"]["completed"] >= 4)
    worker = deployed.platform.wait_for("batches_worker")
    deployed.platform.kill(worker)
    assert deployed.batch(id)["request_counts"]["completed"] < 300
    let_lease_run_out(deployed.client, job.id)
    tick(deployed.platform)

    assert deployed.done(id)["request_counts"] == {"total": 300, "completed": 300, "failed": 0}
    answers = deployed.answers(id)
    assert list(answers) == [f"line-{number}" for number in range(1, 301)]
    assert all(f"say {name.removeprefix('line-')}" in answer for name, answer in answers.items())
    [lost, *_] = deployed_ledger(deployed.client).reader.get(job.id).attempts
    assert lost.outcome == "lost"
    assert deployed.batch(id)["use"]["dollars"] > 0
    until(lambda: sum(use["requests"] for use in deployed.cost(id)) >= 40)
    until(lambda: sum(use["dollars"] for use in deployed.cost(id)) > 0)  # once the server has counted it
    served = [use for use in deployed.cost(id) if use["tier"]]  # else a line was turned away before it had one
    assert {(use["tier"], use["key"]) for use in served} == {("a10g", "root")}
    assert deployed.estimated(SMALL, 40)["basis"] == "measured"


@pytest.mark.timeout(600)
def test_a_file_is_posted_by_modal_run(deployed: Deployed, tmp_path: Path) -> None:
    """It is checked and priced before it goes up to the volume; the command follows it, and writes its results. A file
    that cannot run, and a dry run, put nothing there."""
    deployed.serving(SMALL)
    lines, out = tmp_path / "lines.jsonl", tmp_path / "out.jsonl"

    def run(*words: str) -> "CompletedProcess[str]":
        return modal_command(deployed.platform, "run", "-q", "-m", *words)

    lines.write_text("".join(f"{json.dumps(line(SMALL, number))}\n" for number in (1, 2, 2)), "utf-8")
    before = deployed.platform.volume("ollama-batches").files()
    wrong = run("app.jobs::batch", "--file", str(lines))
    assert wrong.returncode == 2, wrong.stderr
    assert "line 3" in wrong.stderr
    lines.write_text("".join(f"{json.dumps(line(SMALL, number))}\n" for number in (1, 2, 3)), "utf-8")
    dry = run("app.jobs::batch", "--file", str(lines), "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "nothing is posted" in dry.stderr
    assert deployed.platform.volume("ollama-batches").files().keys() == before.keys()

    done = run("app.jobs::batch", "--file", str(lines), "--start", "now", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert [json.loads(each)["custom_id"] for each in out.read_text("utf-8").splitlines()] == [
        "line-1",
        "line-2",
        "line-3",
    ]
    [newest, *_] = json.loads(run("app.jobs::batches", "--json").stdout)
    assert (newest["status"], newest["lines"]["completed"]) == ("completed", 3)
    again = run("app.jobs::batch", "--id", newest["id"], "--results")
    assert again.stdout == out.read_text("utf-8")
    ended = run("app.jobs::cancel", "--id", newest["id"])
    assert ended.returncode == 1
    assert "there is nothing left to cancel" in ended.stderr


@pytest.mark.timeout(600)
def test_a_batch_runs_when_its_window_opens(deployed: Deployed, checkout: Path) -> None:
    """It waits for the window, and wakes nothing; the tick that opens that has it begin. The tier stays up with the
    window, and what that took is the window's wake alone."""
    fleet = checkout / "app/fleet.toml"
    fleet.write_text(fleet.read_text("utf-8") + WINDOW, "utf-8")
    deploy(deployed.platform, folder=checkout)
    for worker in deployed.platform.containers("batches_worker"):
        deployed.platform.kill(worker)  # of the fleet before
    deployed.serving(LARGE)
    id = deployed.post(LARGE, 3, start="window")
    waits = deployed.waiting(id)
    assert "waits for the window of h100 that opens at" in waits["note"]
    assert not deployed.servers(LARGE, alive=False)

    tick(deployed.platform)
    done = deployed.done(id)

    assert done["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
    assert deployed.answers(id).keys() == {"line-1", "line-2", "line-3"}
    assert deployed.used(LARGE) == 1
    assert deployed.servers(LARGE)
    assert deployed.facts.get(keys.leave("h100")) is None
