"""The jobs of a deployment: asked for by the real client, worked on in real containers, from a registry on loopback."""

import http.server
import re
import shutil
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import modal
import pytest
from cronsim import CronSim
from modal.client import Client

from app.fleet.schema import declared
from app.resources import server_class
from jobs.core.clock import SystemClock
from jobs.core.model_name import ModelName
from jobs.ledger.job import JobState
from jobs.telemetry.usage import UsageRecorder, Use
from jobs.testing.models import LIBRARY, SimModel, arbitrary, find
from jobs.testing.ollama.server import OllamaDouble
from jobs.testing.registry.faults import RegistryFault
from jobs.testing.registry.server import RegistryDouble
from tests.modal.platform.isolation import unshare
from tests.modal.platform.plane import Platform
from tests.support.checkout import ROOT
from tests.support.deployments import (
    APP,
    are_vouched_for,
    ask,
    control_plane,
    deploy,
    deployed_facts,
    deployed_ledger,
    finished,
    has_whole,
    let_lease_run_out,
    modal_command,
    published,
    tick,
    with_secrets,
)
from tests.support.waiting import PATIENCE, until

MANY_BLOBS = arbitrary("many-blobs", 5_000_000, layers=10)

pytestmark = pytest.mark.skipif(not unshare(), reason="this kernel lets nobody mount, so no volume can be at /models")


@pytest.fixture(scope="module")
def registry() -> Iterator[RegistryDouble]:
    with RegistryDouble((*LIBRARY, MANY_BLOBS)) as registry:
        yield registry


@pytest.fixture(scope="module")
def bare(registry: RegistryDouble) -> Iterator[Platform]:
    """Nothing is deployed, and there are no secrets."""
    with control_plane(registry) as platform:
        yield platform


@pytest.fixture(scope="module")
def deployed(registry: RegistryDouble) -> Iterator[Platform]:
    with control_plane(registry) as platform:
        with_secrets(platform)
        deploy(platform)
        yield platform


@pytest.fixture(scope="module")
def client(deployed: Platform) -> Iterator[Client]:
    with deployed.client() as client:
        yield client


def simulated(name: str) -> SimModel:
    model = find(ModelName.parse(name))
    assert model is not None
    return model


# What is asked for


def test_a_deployment_asks_for_these_numbers(deployed: Platform) -> None:
    """The tiers' servers alone have GPUs, the weights worker alone writes the volume, secrets are where they are used;
    one gateway is kept, to which Modal lets everybody."""
    functions = {name: function.definition for name, function in deployed.functions(APP).items()}
    servers = set(map(server_class, declared().tiers))

    looking = {
        "list_models",
        "names_here",
        "archived_jobs",
        "archived_usage",
        "archived_audit",
        "plan_prune",
        "plan_night",
    }
    working = {"weights_worker", "servers_worker", "batches_worker", "deliver_alerts", "tick", "nightly"}
    assert set(functions) == {*servers, *looking, *working, "read_fleet", "Gateway"}
    assert {name for name, one in functions.items() if one.is_server} == {*servers, "Gateway"}
    assert {name for name, one in functions.items() if one.resources.gpu_config.gpu_type} == servers
    for name in servers:
        assert (functions[name].http_config.port, functions[name].http_config.unauthenticated) == (11434, False)
    mounts = {
        name: sorted(
            (deployed.volume_name(mount.volume_id), mount.mount_path, mount.read_only) for mount in one.volume_mounts
        )
        for name, one in functions.items()
    }
    read_only = [("ollama-model-weights", "/models", True)]
    assert mounts == {
        **dict.fromkeys([*servers, *looking, "nightly"], read_only),
        **{name: [("ollama-batches", "/batches", False), *read_only] for name in ("Gateway", "batches_worker")},
        "weights_worker": [("ollama-model-weights", "/models", False)],
        **{name: [] for name in ("servers_worker", "deliver_alerts", "tick", "read_fleet")},
    }
    limits = {name: (one.timeout_secs, one.autoscaler_settings.max_containers) for name, one in functions.items()}
    workers = ("weights_worker", "servers_worker", "batches_worker")
    assert {name: limits[name] for name in workers} == dict.fromkeys(workers, (86_400, 1))
    assert (limits["tick"], limits["nightly"]) == ((600, 1), (600, 1))
    starts = {name: one.startup_timeout_secs for name, one in functions.items() if not one.is_server}
    assert {name: starts[name] for name in workers} == dict.fromkeys(workers, 300)
    assert max(starts.values()) <= 600
    assert [name for name, one in functions.items() if one.autoscaler_settings.min_containers] == ["Gateway"]
    assert not any(one.retry_policy.retries for one in functions.values())
    secrets = {name: deployed.secret_names(function) for name, function in deployed.functions(APP).items()}
    assert {name: names for name, names in secrets.items() if names} == {
        "servers_worker": ["ollama-proxy-token"],
        "Gateway": ["ollama-api-keys", "ollama-proxy-token"],
    }


def test_the_gateway_is_one_small_container_with_keys_of_its_own(deployed: Platform) -> None:
    """It has no GPU and no proxy of Modal's; one is kept and none added; answers in flight get the longest grace of any
    tier; the document tells what it costs in a month."""
    asked = deployed.function(APP, "Gateway").definition

    assert (asked.http_config.port, asked.http_config.unauthenticated) == (8000, True)
    assert (asked.resources.milli_cpu, asked.resources.memory_mb) == (250, 512)
    scaling = asked.autoscaler_settings
    assert (scaling.min_containers, scaling.max_containers, scaling.target_concurrency_float) == (1, 0, 0)
    assert asked.http_config.exit_grace_period == 1800
    files = set(deployed.mounts.files(asked.mount_ids))
    assert {"/root/app/gateway/dashboard/ui/page.js", "/root/app/fleet.toml", "/root/jobs/ledger/ledger.py"} <= files
    prices = declared().prices
    monthly = (prices.cpu_core * 0.25 + prices.memory_gib * 0.5) * 30 * 86_400
    [row] = re.findall(r"^\| `Gateway` .*$", (ROOT / "app/README.md").read_text("utf-8"), flags=re.MULTILINE)
    assert f"${monthly:.0f} a month" in row


def test_schedules_fire_when_they_should(deployed: Platform) -> None:
    """The tick comes every five minutes and the night at three in Berlin; there is no third schedule."""
    functions = {name: function.definition for name, function in deployed.functions(APP).items()}
    crons = {name: one.schedule.cron for name, one in functions.items() if one.HasField("schedule")}

    assert set(crons) == {"tick", "nightly"}
    assert {cron.timezone for cron in crons.values()} == {"Europe/Berlin"}
    start = datetime(2026, 1, 1, 0, 1, tzinfo=UTC)
    ticks, nights = (CronSim(crons[name].cron_string, start) for name in ("tick", "nightly"))
    assert [next(ticks).minute for _ in range(3)] == [5, 10, 15]
    assert [next(nights) for _ in range(2)] == [datetime(2026, 1, day, 3, tzinfo=UTC) for day in (1, 2)]


def test_a_broken_fleet_creates_nothing(tmp_path: Path) -> None:
    """With a wrong fleet file a deployment ends with 2 and a whole line for each of thirty errors, though the terminal
    be narrow, and has created nothing; with one that is no TOML, so does any command."""
    for folder in ("app", "jobs"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "requirements.lock", tmp_path)
    fleet = tmp_path / "app/fleet.toml"
    wrong = "".join(f'[[models]]\nname = "model-{n}"\ntier = "a tier that nobody declared"\n\n' for n in range(30))
    text = fleet.read_text("utf-8").replace("nightly_hour = 3", "nightly_hour = 30")
    fleet.write_text(text.replace("[volume]", f"{wrong}[volume]"))
    with Platform() as platform:
        done = modal_command(platform, "deploy", "-m", "app.deploy", folder=tmp_path, COLUMNS="60")
        said = done.stderr.splitlines()
        fleet.write_text(f"{text}nothing\n")
        broken = modal_command(platform, "run", "-m", "app.jobs::jobs", folder=tmp_path, COLUMNS="60")

        assert (done.returncode, broken.returncode) == (2, 2)
        assert [line for line in said if "error" in line.lower()] == [f"error: {fleet} is refused:"]
        assert "  schedule.nightly_hour = 30: too large; at most 23" in said
        words = "'a tier that nobody declared': there is no such tier; one of a10g, h100"
        assert [line for line in said if "nobody declared" in line] == [
            f"  models[{index}].tier = {words}" for index in range(2, 32)
        ]
        place = f"at line {len(text.splitlines()) + 1}, column 8"
        words = f"error: {fleet} is no TOML: Expected '=' after a key in a key/value pair ({place})"
        assert [line for line in broken.stderr.splitlines() if line] == [words]
        assert not platform.running_apps()
        assert not platform.requests("VolumeGetOrCreate")


# With nothing deployed


def test_a_pull_without_a_deployment(bare: Platform, registry: RegistryDouble) -> None:
    """`pull` runs its worker in its own app and says so, to the end; no GPU image and no secret is asked for."""
    registry.throttle.bytes_per_second = 4_000_000
    done = modal_command(bare, "run", "-m", "app.jobs::pull", "--model", "llama3.2")
    registry.throttle.bytes_per_second = None

    assert done.returncode == 0, done.stdout + done.stderr
    assert "pull done: llama3.2:latest, 20 MB" in done.stdout
    assert "the worker runs in the app of this command" in done.stderr
    assert re.search(r"pull llama3.2:latest +running +pulling +\d+ % +[\d.]+ [kM]?B of 20 MB", done.stderr), done.stderr
    assert has_whole(bare, "llama3.2/latest")
    asked = "\n".join(line for image in bare.images.images.values() for line in image.commands)
    assert "FROM " in asked
    assert "ollama/ollama" not in asked
    assert not bare.requests("SecretGetOrCreate")
    assert bare.running_apps() == []
    [job] = ask(bare, "jobs")
    assert (job["kind"], job["subject"], job["state"]) == ("pull", "llama3.2:latest", "succeeded")
    [line] = ask(bare, "audit")
    assert (line["act"], line["subject"], line["outcome"]) == ("pull", "llama3.2:latest", "posted")
    assert (line["request"], line["job"]) == ("modal run ::pull", job["id"])
    [model] = ask(bare, "models")
    assert (model["name"], model["digest"]) == ("llama3.2:latest", simulated("llama3.2").digest)


def test_what_needs_a_deployment_says_so(bare: Platform) -> None:
    """With nothing deployed, `--no-wait` posts and says that the job waits; `warm` is refused as a wrong call."""
    posted = modal_command(bare, "run", "-q", "-m", "app.jobs::pull", "--model", "tiny", "--no-wait")
    assert (posted.returncode, len(posted.stdout.split())) == (0, 1)
    assert "nothing is deployed that could work the queue" in posted.stderr
    warmed = modal_command(bare, "run", "-q", "-m", "app.jobs::warm", "--model", "tiny")
    assert warmed.returncode == 2
    assert "hint: deploy it: `modal deploy -m app.deploy`" in warmed.stderr
    told = modal_command(bare, "run", "-q", "-m", "app.jobs::job", "--id", "nonesuch")
    assert told.returncode == 2
    assert "hint: `modal run -m app.jobs::jobs` lists them" in told.stderr


# With all of it deployed


def test_a_pull_by_the_deployed_worker(deployed: Platform, client: Client) -> None:
    """`pull --no-wait` prints the id; the deployed worker brings the model, tells servers, and goes home."""
    done = modal_command(deployed, "run", "-q", "-m", "app.jobs::pull", "--model", "qwen2.5:0.5b", "--no-wait")
    assert done.returncode == 0, done.stderr
    job = finished(deployed_ledger(client), done.stdout.strip())

    assert job.state is JobState.SUCCEEDED
    assert has_whole(deployed, "qwen2.5/0.5b")
    facts = deployed_facts(client)
    assert facts.get("weights/generation")
    assert {one.function.app_id for one in deployed.containers("weights_worker", alive=False)} == {deployed.app(APP).id}
    status = ask(deployed, "status")
    assert (status["deployed"], status["generation"]) == (True, facts.get("weights/generation"))
    assert status["gateway"] == "https://tests--ollama-service-gateway.us-east.modal.direct"


def test_a_killed_worker_costs_what_was_not_committed(
    deployed: Platform, client: Client, registry: RegistryDouble
) -> None:
    """Killed half-way, and a tick fired once: the job ends once, and what was committed is not fetched again; its
    attempts tell the two containers apart."""
    *before, last = (layer.digest for layer in MANY_BLOBS.layers)
    registry.faults.add(RegistryFault("cdn", "hang", value=1000, digest=last, times=None))
    registry.reset()
    ledger = deployed_ledger(client)
    id = ledger.post("pull", "many-blobs:latest", {"model": "many-blobs"}, by="test").job.id
    modal.Function.from_name(APP, "weights_worker", client=client).spawn()
    until(lambda: ledger.reader.get(id).progress.completed >= MANY_BLOBS.layers[0].size * len(before))
    until(lambda: are_vouched_for(deployed, MANY_BLOBS.layers[:-1]))
    worker = deployed.wait_for("weights_worker")
    registry.faults.clear()
    deployed.kill(worker)
    let_lease_run_out(client, id)
    tick(deployed)
    job = finished(ledger, id)

    assert job.state is JobState.SUCCEEDED
    assert [attempt.outcome for attempt in job.attempts] == ["lost", "succeeded"]
    after = deployed.containers("weights_worker", alive=False)[-1]
    assert [attempt.worker for attempt in job.attempts] == [worker.id, after.id]
    assert has_whole(deployed, "many-blobs/latest")
    served = registry.counters()["served"]
    assert {digest: served[digest] for digest in before} == {
        layer.digest: layer.size for layer in MANY_BLOBS.layers[:-1]
    }


def test_a_preempted_worker_hands_its_work_back(deployed: Platform, client: Client, registry: RegistryDouble) -> None:
    """A container that is taken away hands its attempt back at once, and the next one finishes it without a tick."""
    *_, layer = sorted(simulated("llama3.2:1b").layers, key=lambda each: each.size)
    registry.faults.add(RegistryFault("cdn", "hang", value=1000, digest=layer.digest, times=None))
    ledger = deployed_ledger(client)
    id = ledger.post("pull", "llama3.2:1b", {"model": "llama3.2:1b"}, by="test").job.id
    modal.Function.from_name(APP, "weights_worker", client=client).spawn()
    until(lambda: registry.counters()["served"].get(layer.digest))

    deployed.preempt(deployed.wait_for("weights_worker"))
    registry.faults.clear()
    job = finished(ledger, id)

    assert job.state is JobState.SUCCEEDED
    assert [attempt.outcome for attempt in job.attempts] == ["retry", "succeeded"]
    assert job.attempts[0].message == "the worker was asked to stop"


def test_schedules_do_no_harm_twice(deployed: Platform, client: Client) -> None:
    """A night brings what is pinned and is told so, a second run changes nothing; two ticks at once do no harm."""
    ledger = deployed_ledger(client)
    before = {job.id for job in ledger.reader.jobs()}
    steps = {(step["kind"], step["subject"]) for step in ask(deployed, "plan")["steps"]}
    deployed.result(deployed.fire(APP, "nightly"))
    assert {(job.kind, job.subject) for job in ledger.reader.jobs() if job.id not in before} == steps
    for job in ledger.reader.jobs():
        finished(ledger, job.id)
    assert has_whole(deployed, "llama3.2/latest")
    assert has_whole(deployed, "deepseek-r1/32b")
    jobs, files = ledger.reader.jobs(), published(deployed)

    assert ask(deployed, "plan")["steps"] == []
    deployed.result(deployed.fire(APP, "nightly"))
    for call in [deployed.fire(APP, "tick") for _ in range(2)]:
        deployed.result(call)

    assert ledger.reader.jobs() == jobs
    assert published(deployed) == files
    told = ask(deployed, "night")
    assert {(job["kind"], job["subject"]) for job in told["jobs"]} == steps
    assert {job["state"] for job in told["jobs"]} == {ledger.reader.get(job["id"]).state for job in told["jobs"]}
    assert told["pulled_bytes"] > 0


def test_a_prune_goes_by_recorded_use(deployed: Platform, client: Client) -> None:
    """`prune --dry-run` posts nothing and prints the plan that `prune` then follows; what is pinned or was used today
    stays; a second prune does nothing, and a rollback brings back what it took."""
    ledger = deployed_ledger(client)
    for name in ("many-blobs", "llama3.2"):
        if has_whole(deployed, f"{name}/latest"):
            continue  # another test has brought it
        id = ledger.post("pull", f"{name}:latest", {"model": name}, by="test").job.id
        modal.Function.from_name(APP, "weights_worker", client=client).spawn()
        assert finished(ledger, id).state is JobState.SUCCEEDED
    count, unused = len(ledger.reader.ids()), ("--unused-days", "0.00001")
    assert ask(deployed, "prune", "--dry-run", *unused)["notes"] == [
        "no use was ever recorded, so nobody can tell which model is unused: none goes for that"
    ]
    usage_recorder = UsageRecorder(deployed_facts(client), SystemClock(), "test")
    for name, days in (("other", 100), ("qwen2.5:0.5b", 0)):
        usage_recorder.add(Use(datetime.now(UTC) - timedelta(days=days), name, "key", "a10g", "success"))
    assert usage_recorder.flush()

    plan = ask(deployed, "prune", "--dry-run", *unused)

    thrown = {each["name"] for each in plan["throw"] if each["what"] == "model"}
    assert "many-blobs:latest" in thrown
    assert not thrown & {"llama3.2:latest", "deepseek-r1:32b", "qwen2.5:0.5b"}
    assert any("llama3.2:latest stays" in note and "the fleet pins it" in note for note in plan["notes"])
    assert len(ledger.reader.ids()) == count
    job = ask(deployed, "prune", *unused)
    assert (job["state"], job["result"]) == ("succeeded", plan)
    assert not has_whole(deployed, "many-blobs/latest")
    assert has_whole(deployed, "llama3.2/latest")
    files = weights_on(deployed)
    again = ask(deployed, "prune", *unused)
    assert (again["result"]["throw"], again["result"]["delete"]) == ([], [])
    assert weights_on(deployed) == files
    assert ask(deployed, "rollback", "--model", "many-blobs")["state"] == "succeeded"
    assert has_whole(deployed, "many-blobs/latest")


def weights_on(platform: Platform) -> dict[str, bytes]:
    """All that is on the volume but the archive, which a worker writes when its work is done."""
    files = platform.volume("ollama-model-weights").files()
    return {path: content for path, content in files.items() if not path.startswith("ops/")}


class Proxy(http.server.BaseHTTPRequestHandler):
    """Modal's proxy: nobody gets through without the token, and at zero containers the answer is 503."""

    server: "ProxyServer"

    def do_GET(self) -> None:
        self.pass_on()

    def do_POST(self) -> None:
        self.pass_on()

    def pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, content = self.server.answer(self.command, self.path, body, dict(self.headers))
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is inherited
        pass


class ProxyServer(http.server.ThreadingHTTPServer):
    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), Proxy)
        self.target = target
        self.asleep = 2
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        folded = {key.lower(): value for key, value in headers.items()}
        if (folded.get("modal-key"), folded.get("modal-secret")) != ("wk-test", "ws-test"):
            return 401, b"modal-http: missing credentials"
        if self.asleep:
            self.asleep -= 1
            return 503, b"modal-http: no container"
        found = httpx.request(method, self.target + path, content=body, timeout=PATIENCE)
        return found.status_code, found.content


def test_a_model_is_warmed_through_the_proxy(deployed: Platform, registry: RegistryDouble) -> None:
    """`warm` wakes the server of the model's tier, with the proxy's token, and waits for it to wake."""
    with OllamaDouble(registry=registry.url) as ollama, ProxyServer(ollama.url) as proxy:
        httpx.post(f"{ollama.url}/api/pull", json={"model": "llama3.2", "stream": False}, timeout=PATIENCE)
        threading.Thread(target=proxy.serve_forever, args=(0.02,), daemon=True).start()
        deployed.apps.server_urls[APP, "OllamaA10G"] = proxy.url
        job = ask(deployed, "warm", "--model", "llama3.2")
        proxy.shutdown()

    assert (job["state"], job["result"]["tier"], job["result"]["on_gpu"]) == ("succeeded", "a10g", True)
    assert len(job["attempts"]) == 1
    assert proxy.asleep == 0
