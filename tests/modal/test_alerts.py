"""The watch of a deployment: ticks find what is wrong, a webhook is told once, and what was spent is told."""

import json
import re
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import modal
import pytest
from modal.client import Client

from app.fleet.schedule import night_began
from app.fleet.schema import declared
from app.resources import server_class
from jobs.core.clock import SystemClock
from jobs.store import keys
from jobs.telemetry.container_time import Metered
from jobs.telemetry.night_tries import Tries
from jobs.testing.registry.server import RegistryDouble
from tests.modal.platform.isolation import unshare
from tests.modal.platform.plane import Platform
from tests.support.checkout import ROOT
from tests.support.deployments import (
    APP,
    ask,
    control_plane,
    deployed_facts,
    deployed_ledger,
    finished,
    modal_command,
    tick,
    with_secrets,
)
from tests.support.processes import free_port
from tests.support.waiting import PATIENCE, until
from tests.support.webhooks import WebhookServer, webhook_server

pytestmark = pytest.mark.skipif(not unshare(), reason="this kernel lets nobody mount, so no volume can be at /models")

WINDOW = '[[windows]]\ntier = "a10g"\nstart = "0 * * * *"\nhours = 24\nmodels = ["llama3.2"]\n'  # open at any time


@pytest.fixture(scope="module")
def hook() -> Iterator[WebhookServer]:
    with webhook_server() as server:
        yield server


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout whose fleet names a webhook's secret, wants to hear of dead jobs, and declares a window."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("app", "jobs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "requirements.lock", folder)
    fleet = folder / "app/fleet.toml"
    text = fleet.read_text("utf-8").replace("[alerts]\n", '[alerts]\nwebhook_secret = "ollama-webhook"\n')
    kinds = re.sub(r"^kinds = .*$", 'kinds = ["job"]', text, flags=re.MULTILINE)
    fleet.write_text(f"{kinds}\n{WINDOW}", "utf-8")
    return folder


@pytest.fixture(scope="module")
def deployment(hook: WebhookServer, checkout: Path) -> Iterator[tuple[Platform, str]]:
    """The platform, and what whoever deployed to it was told."""
    with RegistryDouble() as registry, control_plane(registry) as platform:
        with_secrets(platform)
        platform.create_secret("ollama-webhook", {"OLLAMA_MODAL_WEBHOOK": hook.url})
        done = modal_command(platform, "deploy", "-m", "app.deploy", folder=checkout)
        assert done.returncode == 0, done.stdout + done.stderr
        yield platform, done.stderr


@pytest.fixture(scope="module")
def deployed(deployment: tuple[Platform, str]) -> Platform:
    return deployment[0]


@pytest.fixture(scope="module")
def client(deployed: Platform) -> Iterator[Client]:
    with deployed.client() as client:
        yield client


def test_what_has_no_effect_is_told_to_who_deploys(deployment: tuple[Platform, str]) -> None:
    """Keys of the fleet file that another key makes void are named, a line each, and nothing else of it; the gateway
    says the same in its log as it starts."""
    platform, said = deployment
    notes = [
        "alerts.quota_percent = 90 has no effect: 'quota' is none of alerts.kinds",
        "alerts.nightly_late_hours = 3 has no effect: 'nightly' is none of alerts.kinds",
        "alerts.monthly_budget_dollars = 200 is shown, and nobody is told: 'budget' is none of alerts.kinds",
    ]
    assert [line for line in said.splitlines() if "effect" in line or "budget" in line] == [
        f"warning: {note}" for note in notes
    ]
    platform.settings.environ["OLLAMA_MODAL_GATEWAY_PORT"] = str(free_port())
    container = platform.start_server(APP, "Gateway")
    until(lambda: all(note in container.output for note in notes))
    platform.kill(container)


def told(platform: Platform) -> int:
    """How often a delivery has come back."""
    calls = [call for call in platform.calls.calls.values() if call.function.name == "deliver_alerts"]
    return sum(not call.unfinished for call in calls)


def test_a_dead_job_is_told_once(deployed: Platform, client: Client, hook: WebhookServer) -> None:
    """A job that fails for good is told to the webhook at the next tick, and at no other; a webhook that drips does
    not hold up the tick, and hears of it later."""
    hook.answers = [0]
    id = deployed_ledger(client).post("pull", "nonesuch:latest", {"model": "nonesuch"}, by="test").job.id
    modal.Function.from_name(APP, "weights_worker", client=client).spawn()
    assert finished(deployed_ledger(client), id).attempts[-1].failure_class == "not_found"

    tick(deployed)
    until(lambda: hook.heard)
    began = time.monotonic()
    tick(deployed)
    assert time.monotonic() - began < PATIENCE
    until(lambda: len(hook.heard) >= 2)
    until(lambda: told(deployed) == 2)
    tick(deployed)
    time.sleep(1)

    texts = [body["text"] for _, body in hook.heard]
    assert len(texts) == 2  # the first try was left when it dripped; the second got through
    assert set(texts) == {texts[0]}
    assert texts[0].startswith("ollama-modal: the pull of nonesuch:latest failed for good: not_found: ")
    assert f"--id {id}" in texts[0]
    facts = deployed_facts(client)
    assert facts.get("told/job/pull/nonesuch:latest/1/opened")["how"] == "told"
    logs = "".join(one.output for one in deployed.containers("deliver_alerts", alive=False))
    assert "secret" not in logs
    dead = ask(deployed, "jobs", "--dead")
    assert [job["id"] for job in dead] == [id]


def test_what_was_spent_is_told(deployed: Platform, client: Client, checkout: Path) -> None:
    """`cost` adds up what the containers counted, and `windows` prices what the fleet declares."""
    facts = deployed_facts(client)
    now = SystemClock().now()
    shares = {"cold": 60, "warming": 0, "serving": 1740, "idle": 1800}
    meter = Metered("a10g", "ta-1", now - timedelta(hours=2), now - timedelta(hours=1), shares)  # type: ignore[arg-type]
    facts.put(meter.key, meter.as_json())

    done = modal_command(deployed, "run", "-q", "-m", "app.jobs::cost", "--since", "1d", folder=checkout)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("about $1.42 since ")
    assert "an estimate, by the containers' own count and the prices of 2026-09-15" in done.stdout
    assert "Modal does not tell its rates, the fleet's are taken" in done.stderr
    gpus = {"gpu_hour_cost_a10g": "2.00", "gpu_hour_cost_h100": "4.00"}
    deployed.workspace.rates = {"cpu_hour_cost": "0.05", "mem_gib_hour_cost": "0.008", **gpus}
    done = modal_command(deployed, "run", "-q", "-m", "app.jobs::cost", "--since", "1d", folder=checkout)
    deployed.workspace.rates = {}
    assert done.stdout.startswith("about $2.33 since "), done.stderr
    assert f"the prices of {now:%Y-%m-%d} (modal billing rates)" in done.stdout
    done = modal_command(deployed, "run", "-q", "-m", "app.jobs::windows", folder=checkout)
    assert done.returncode == 0, done.stderr
    assert (
        "a start of unknown length (none is recorded yet, it counts as nothing) and 300 s of idle tail" in done.stdout
    )


def test_what_is_told_follows_the_fleet_that_is_deployed(deployed: Platform, tmp_path: Path) -> None:
    """What a checkout says that is not deployed counts for no plan, no prune, no price and no pull; that is said."""
    other = tmp_path / "other"
    for name in ("app", "jobs"):
        shutil.copytree(ROOT / name, other / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "requirements.lock", other)
    fleet = other / "app/fleet.toml"
    text = fleet.read_text("utf-8").replace('"llama3.2"', '"tiny"').replace('"huggingface.co"', '"listed.example"')
    fleet.write_text(re.sub(r"^A10 = .*$", "A10 = 99", text, flags=re.MULTILINE), "utf-8")

    def run(*words: str) -> Any:
        return modal_command(deployed, "run", "-q", "-m", *words, folder=other)

    plan = run("app.jobs::plan", "--json")
    assert plan.returncode == 0, plan.stderr
    subjects = {step["subject"] for step in json.loads(plan.stdout)["steps"]}
    assert "llama3.2:latest" in subjects
    assert "tiny:latest" not in subjects
    assert "note: this is by the fleet that is deployed" in plan.stderr
    assert "$99" not in run("app.jobs::cost").stdout
    pull = run("app.jobs::pull", "--model", "listed.example/user/model", "--no-wait")
    assert (pull.returncode, pull.stdout) == (2, "")
    assert "nothing is pulled from 'listed.example': it is not listed" in pull.stderr
    assert "by the fleet that is deployed" in run("app.jobs::prune", "--dry-run").stderr


def awake(platform: Platform) -> dict[str, int]:
    """How many containers of each server are to be kept up, as the real client has asked for it."""
    pools = [
        pool for pool in platform.calls.pools.values() if pool.function.name in map(server_class, declared().tiers)
    ]
    return {pool.function.name: pool.override.min_containers for pool in pools if pool.override.ListFields()}


def test_windows_are_kept_through_a_deployment(deployed: Platform, client: Client) -> None:
    """A tick keeps a server up whose window is open and lets one go whose window has closed; what a deployment makes
    the platform forget the next tick says again, and nothing is warmed twice."""
    facts = deployed_facts(client)
    facts.put(keys.window("h100"), True)  # from a window that has closed since
    tick(deployed)
    assert awake(deployed) == {"OllamaA10G": 1, "OllamaH100": 0}
    assert (facts.get(keys.window("a10g")), facts.get(keys.window("h100"))) == (True, False)

    for pool in deployed.calls.pools.values():
        pool.override.Clear()  # as Modal does when it is deployed to
    tick(deployed)
    assert awake(deployed) == {"OllamaA10G": 1}
    warmed = [job for job in deployed_ledger(client).reader.jobs() if job.kind == "warm"]
    assert [(job.subject, job.posted_by) for job in warmed] == [("llama3.2:latest", "window")]


def test_a_night_that_failed_is_sent_for_by_a_tick(deployed: Platform, client: Client) -> None:
    """The next tick sends a container for a night whose last try failed, and the night says that it was the second."""
    facts = deployed_facts(client)
    now = SystemClock().now()
    due = night_began(declared().schedule.times, now).astimezone(UTC)
    failed = Tries(due).begun(now - timedelta(hours=2)).failed(OSError("no volume"))
    facts.put(keys.NIGHT_TRIES, failed.as_json())
    facts.pop(keys.NIGHT_RAN, None)
    tick(deployed)
    until(lambda: facts.get(keys.NIGHT_RAN))
    ran = facts.get(keys.NIGHT_RAN)
    assert (ran["tries"], ran["trouble"]) == (2, "OSError: no volume")
