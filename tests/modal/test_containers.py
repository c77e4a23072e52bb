"""Everything that is deployed starts, in containers that hold what their images declare and nothing else."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import modal
import pytest
from modal.client import Client

from app.gateway.deployed import OTHER_PORT
from app.resources import APP, PORT, PYTHON
from jobs.ledger.job import JobState
from jobs.testing.models import LIBRARY
from jobs.testing.registry.server import RegistryDouble
from tests.modal.platform.containers import Container, Settings
from tests.modal.platform.interpreters import interpreter
from tests.modal.platform.isolation import has_networks, unshare
from tests.modal.platform.plane import Platform
from tests.support.deployments import deploy, deployed_ledger, with_secrets
from tests.support.processes import free_port, gpu_programs
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.skipif(not unshare(), reason="this kernel lets nobody mount, so no volume can be at /models")

SIMPLE = "ollama-simple"
CALLED: dict[str, tuple[object, ...]] = {
    "weights_worker": (),
    "servers_worker": (),
    "batches_worker": (),
    "list_models": (),
    "names_here": (True,),
    "plan_prune": ({},),
    "plan_night": (),
    "read_fleet": (),
    "archived_jobs": ("2026-01-01T00:00:00Z",),
    "archived_usage": (),
    "archived_audit": ({"since": "2026-01-01T00:00:00Z"},),
    "deliver_alerts": (),
    "tick": (),
    "nightly": (),
}
"""The Functions, with what they are called with."""

SERVERS = {"Gateway", "OllamaA10G", "OllamaH100"}


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """All of it, and the simple alternative; nothing has started yet."""
    programs = tmp_path_factory.mktemp("bin")
    gpu_programs(programs)
    environ = {
        OTHER_PORT: str(free_port()),
        "OLLAMA_HOST": f"127.0.0.1:{free_port()}",
        "OLLAMA_MODAL_WEBHOOK": "http://127.0.0.1:9/never",
    }
    settings = Settings(path_prefix=programs, environ=environ, start_attempts=1, fresh=True)
    with (
        pytest.MonkeyPatch.context() as environment,
        RegistryDouble(LIBRARY) as registry,
        Platform(settings=settings) as platform,
    ):
        environment.setenv("OLLAMA_MODAL_REGISTRY", registry.url)
        with_secrets(platform)
        for module in ("app.deploy", "app.endpoint_v2"):
            deploy(platform, module)
        yield platform


@pytest.fixture(scope="module")
def client(deployed: Platform) -> Iterator[Client]:
    with deployed.client() as client:
        yield client


def check_what_it_could_import(platform: Platform, container: Container) -> None:
    """Nothing of this checkout or of the tests' own environment, and no installation of ours, on the image's Python."""
    environment = container.environment
    assert environment is not None
    assert environment.interpreter == interpreter(PYTHON)
    for path in platform.environ_of(container)["PYTHONPATH"].split(":"):
        assert Path(path).is_relative_to(container.home) or Path(path) == environment.client
    installed = {path.name.partition("-")[0] for path in environment.packages.glob("*.dist-info")}
    assert {"httpx", "pydantic", "tzdata"} <= installed
    assert not installed & {"modal", "ollama_modal", "pytest"}


def test_every_function_and_server_is_started_here(deployed: Platform) -> None:
    """What the deployments registered is what this file starts: one that is new has to be added."""
    registered = {(app, name) for app in (APP, SIMPLE) for name in deployed.functions(app)}

    assert registered == {(APP, name) for name in {*SERVERS, *CALLED}} | {(SIMPLE, "Ollama.*")}


@pytest.mark.parametrize("name", sorted(SERVERS))
def test_a_server_starts(deployed: Platform, name: str) -> None:
    """It comes up and says that it serves."""
    container = deployed.start_server(APP, name)
    deployed.wait_ready(container)

    check_what_it_could_import(deployed, container)
    deployed.kill(container)


@pytest.mark.skipif(not has_networks(), reason="nothing here may have a network of its own, and its port is fixed")
def test_the_simple_alternative_starts(deployed: Platform) -> None:
    """It comes up on the port that Modal waits for, and asks for work."""
    others = deployed.settings.environ["OLLAMA_HOST"]
    deployed.settings.environ["OLLAMA_HOST"] = f"0.0.0.0:{PORT}"  # in a network of its own
    container = deployed.start_server(SIMPLE, "Ollama.*")
    deployed.wait_ready(container)
    deployed.settings.environ["OLLAMA_HOST"] = others

    check_what_it_could_import(deployed, container)
    deployed.kill(container)


def test_the_functions_start_and_return(deployed: Platform, client: Client) -> None:
    """The weights worker brings a model to the empty volume; then each of the others is called and returns."""
    ledger = deployed_ledger(client)
    job = ledger.post("pull", "llama3.2:latest", {"model": "llama3.2"}, by="test").job
    functions: dict[str, Any] = {name: modal.Function.from_name(APP, name, client=client) for name in CALLED}
    functions["weights_worker"].remote()
    assert ledger.reader.get(job.id).state is JobState.SUCCEEDED

    calls = {name: functions[name].spawn(*CALLED[name]) for name in CALLED}
    for call in calls.values():
        call.get(timeout=PATIENCE)

    for name in CALLED:
        containers = deployed.containers(name)
        assert containers, name
        for container in containers:
            check_what_it_could_import(deployed, container)
