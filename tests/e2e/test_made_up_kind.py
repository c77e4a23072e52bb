"""A kind of job is one record: what is added to the table is found wherever people and programs meet jobs."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import modal
import pytest
import typer
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from app.deployment.modal_cli import ModalCommands, WorkerLauncher
from app.jobs import job_entry_points
from jobs.cli.job_commands import JobCommands
from jobs.cli.main import add_post_commands
from jobs.core.clock import SystemClock
from jobs.ledger.job_text import story
from jobs.ledger.kinds import KINDS, WEIGHTS_LANE, Kind, Parameter
from jobs.ledger.ledger import Ledger
from tests.support.ops_api import ADMIN_KEY, OpsApi, ops_api, served
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[2]

GRIT = Parameter("grit", int, "How coarse", metavar="N", least=1, most=9_000, show=lambda grit: f"{grit:,} grains")
POLISH = Kind("polish", WEIGHTS_LANE, 2, "Polish a model until it shines.", parameters=(GRIT,))
WARM = replace(KINDS["warm"], parameters=(*KINDS["warm"].parameters, GRIT))

TABLE = {**KINDS, "polish": POLISH, "warm": WARM}
"""The table with a kind more, and with a parameter more in a kind that is there."""

REQUESTS = {"polish": {"model": "Tiny", "grit": 1_200}, "warm": {"model": "Tiny", "tier": None, "grit": 1_200}}

both = pytest.mark.parametrize("kind", [POLISH, WARM], ids=lambda kind: kind.name)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[OpsApi]:
    with ops_api(tmp_path) as api:
        yield api


@pytest.fixture
def gateway_app(api: OpsApi) -> Any:
    """A gateway's API that knows the table."""
    return api.app(api.ops_context(open_ledger=lambda: ledger_of(api), kinds=TABLE))


def ledger_of(api: OpsApi) -> Ledger:
    store = api.store()
    return Ledger(store.queue, store.facts, store.clock, TABLE)


def command_line() -> typer.Typer:
    application = typer.Typer(rich_markup_mode=None)
    add_post_commands(application, TABLE)
    return application


def posted(api: OpsApi, id: str, kind: Kind) -> None:
    """The job is stored as the kind's record says."""
    job = ledger_of(api).reader.get(id)
    assert (job.kind, job.subject, job.request) == (kind.name, "tiny:latest", REQUESTS[kind.name])
    assert (job.lane, job.attempts_allowed) == (kind.lane, kind.attempts)


@both
def test_help_has_it(kind: Kind) -> None:
    """`--help` shows the kind with its parameter."""
    shown = CliRunner().invoke(command_line(), [kind.name, "--help"]).output
    assert kind.help in shown
    assert "--grit N" in shown
    assert "How coarse" in shown


@both
def test_its_limits_hold_on_the_command_line(kind: Kind) -> None:
    """A value beyond the parameter's limits is refused before anything is asked of anybody."""
    refused = CliRunner().invoke(command_line(), [kind.name, "tiny", "--grit", "0", "--url", "http://127.0.0.1:9"])
    assert str(refused.exception) == "--grit 0 makes no sense"


@both
def test_the_command_line_posts_it_to_a_gateway(kind: Kind, gateway_app: Any, api: OpsApi) -> None:
    """Typed with the address of a gateway, it goes through the client and the API into the ledger."""
    with served(gateway_app) as url:
        words = [kind.name, "Tiny", "--grit", "1200", "--no-wait", "--url", url, "--key", ADMIN_KEY]
        done = CliRunner().invoke(command_line(), words)
    assert done.exit_code == 0, done.output
    posted(api, done.stdout.strip(), kind)


@both
def test_the_api_documents_and_takes_it(kind: Kind, gateway_app: Any, api: OpsApi) -> None:
    """The document has a body for it with the parameter's limits; what is within them is posted, the rest refused."""
    ask = TestClient(gateway_app, headers={"x-api-key": ADMIN_KEY})
    body = {"kind": kind.name, "model": "Tiny", "grit": 1_200}

    shape = ask.get("/ops/v1/openapi.json").json()["components"]["schemas"][f"{kind.name.capitalize()}Body"]
    assert shape["description"] == kind.help
    assert shape["properties"]["grit"]["description"] == "How coarse"
    assert shape["properties"]["grit"]["anyOf"][0] == {"type": "integer", "minimum": 1, "maximum": 9_000}

    assert ask.post("/ops/v1/jobs", json=body | {"grit": 0}).status_code == 422
    posted(api, ask.post("/ops/v1/jobs", json=body).json()["id"], kind)
    assert [job["kind"] for job in ask.get("/ops/v1/jobs", params={"kind": kind.name}).json()["jobs"]] == [kind.name]


class DeployedLauncher(WorkerLauncher):
    """One that knows of a deployment and need not ask the platform."""

    @property
    def deployed(self) -> bool:
        return True


@both
def test_an_entry_point_of_modal_posts_it(kind: Kind, api: OpsApi, capsys: pytest.CaptureFixture[str]) -> None:
    """`modal run` has an entry point for it, whose options are those of the record."""
    app = modal.App("made-up")
    launcher = DeployedLauncher(app.function(name="worker", serialized=True)(print), SystemClock())
    commands = JobCommands(ledger_of(api), SystemClock(), is_worked=lambda: True, idle=("", ""), log="")
    at = ModalCommands(commands, launcher, preview=lambda _: pytest.fail("nothing is to be previewed"))
    points = job_entry_points(app, lambda: at, TABLE)
    given = {"tier": ""} if kind is WARM else {}
    points[kind.name](model="Tiny", grit=1_200, wait=False, attempts=0, json=True, **given)

    posted(api, json.loads(capsys.readouterr().out)["id"], kind)


def test_modal_shows_its_options(tmp_path: Path) -> None:
    """`modal run MODULE::polish --help` shows the parameter."""
    (tmp_path / "made_up.py").write_text(
        "import modal\n"
        "from app.jobs import job_entry_points\n"
        "from tests.e2e.test_made_up_kind import TABLE\n"
        "app = modal.App('made-up')\n"
        "globals().update(job_entry_points(app, kinds=TABLE))\n"
    )
    command = [sys.executable, "-m", "modal", "run", str(tmp_path / "made_up.py") + "::polish", "--help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
    assert "--grit INTEGER" in shown
    assert "--model TEXT" in shown


@both
def test_its_story_words_it(kind: Kind, api: OpsApi) -> None:
    """A job's story tells the parameter as the record words it."""
    job = ledger_of(api).post(*kind.request("Tiny", {"grit": 1_200}), by="ann").job
    assert "  asked    model 'Tiny', grit 1,200 grains" in story(job, datetime.now(UTC), TABLE)
