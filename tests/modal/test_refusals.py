"""What `modal run` refuses before anything is posted, what it takes several of, and the secret an operator may name."""

import re
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from jobs.core.progress import Reading
from jobs.ledger.job import Ending, JobState
from jobs.ledger.ledger import Ledger
from jobs.testing.models import LIBRARY
from jobs.testing.registry.server import RegistryDouble
from tests.modal.platform.isolation import unshare
from tests.modal.platform.plane import Platform
from tests.support.checkout import ROOT
from tests.support.deployments import (
    APP,
    ask,
    control_plane,
    deploy,
    deployed_ledger,
    finished,
    has_whole,
    modal_command,
    with_secrets,
)

pytestmark = pytest.mark.skipif(not unshare(), reason="this kernel lets nobody mount, so no volume can be at /models")

HF_SECRET = "ollama-hf-token"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout that names the secret with the token for Hugging Face, as the document says."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("app", "jobs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "requirements.lock", folder)
    resources = folder / "app/resources.py"
    text = resources.read_text("utf-8")
    assert text.count('HF_SECRET = ""') == 1
    resources.write_text(text.replace('HF_SECRET = ""', f'HF_SECRET = "{HF_SECRET}"'), "utf-8")
    return folder


@pytest.fixture(scope="module")
def deployed(checkout: Path) -> Iterator[Platform]:
    with RegistryDouble(LIBRARY) as registry, control_plane(registry) as platform:
        with_secrets(platform)
        platform.create_secret(HF_SECRET, {"HF_TOKEN": "hf_test"})
        deploy(platform, folder=checkout)
        yield platform


@pytest.fixture(scope="module")
def ledger(deployed: Platform) -> Iterator[Ledger]:
    with deployed.client() as client:
        yield deployed_ledger(client)


def run(platform: Platform, checkout: Path, *words: str) -> Any:
    return modal_command(platform, "run", "-q", "-m", *words, folder=checkout)


def test_the_token_is_where_registries_are_asked(deployed: Platform) -> None:
    """With HF_SECRET named, those Functions have the secret that ask a registry, and nobody else has."""
    secrets = {name: deployed.secret_names(function) for name, function in deployed.functions(APP).items()}
    having = {name for name, names in secrets.items() if HF_SECRET in names}
    assert having == {"weights_worker", "plan_night", "nightly"}


def test_several_models_in_one_command(deployed: Platform, checkout: Path, ledger: Ledger) -> None:
    """`--model a,b` posts both and follows both; each is told of, and the JSON is a list."""
    done = run(deployed, checkout, "app.jobs::pull", "--model", "tiny, qwen2.5:0.5b")
    assert done.returncode == 0, done.stderr
    assert [line.split(",")[0] for line in done.stdout.splitlines()] == [
        "pull done: tiny:latest",
        "pull done: qwen2.5:0.5b",
    ]
    assert has_whole(deployed, "tiny/latest")
    assert has_whole(deployed, "qwen2.5/0.5b")
    assert {job.subject for job in ledger.reader.jobs()} == {"tiny:latest", "qwen2.5:0.5b"}


TYPOS = (
    (["verify", "--model", "tinny"], "there is no model 'tinny:latest' here", "did you mean tiny:latest?"),
    (["delete", "--model", "tiny,nope"], "there is no model 'nope:latest' here", "app.jobs::pull --model nope"),
    (["pull", "--model", "tiny,registry.example/a/b"], "nothing is pulled from 'registry.example'", "[registries]"),
    (["pull", "--model", "tiny", "--attempts", "-1"], "--attempts -1 makes no sense", "at least 1"),
)


@pytest.mark.parametrize("typo", TYPOS, ids=lambda typo: " ".join(typo[0]))
def test_typos_post_nothing(
    deployed: Platform, checkout: Path, ledger: Ledger, typo: tuple[list[str], str, str]
) -> None:
    """Exit 2, in words that can be acted on, with commands as they are typed here; the ledger stays as it was."""
    before = {job.id for job in ledger.reader.jobs()}
    (verb, *words), said, hint = typo
    done = run(deployed, checkout, f"app.jobs::{verb}", *words)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert said in done.stderr
    assert hint in done.stderr
    assert done.stderr.count("error: ") == 1
    assert "`ollama-modal" not in done.stderr
    assert {job.id for job in ledger.reader.jobs()} == before


def test_who_is_dismissed_is_dead_no_more(deployed: Platform, checkout: Path, ledger: Ledger) -> None:
    """`dismiss --id ID` takes a job off the list of the dead; it keeps its story. Whatever else is refused."""
    id = ledger.post("pull", "gone:latest", {"model": "gone"}, by="test", attempts=1).job.id
    claim = ledger.claim(id, worker="w", lease=timedelta(minutes=1))
    assert claim is not None
    ledger.end(claim, Ending("failed", "not_found", "nobody has it"), Reading())
    dead = run(deployed, checkout, "app.jobs::jobs", "--dead")
    assert "`modal run -m app.jobs::dismiss --id ID`" in dead.stdout
    assert id in dead.stdout

    done = run(deployed, checkout, "app.jobs::dismiss", "--id", id[:8])
    assert done.returncode == 0, done.stderr
    assert f"job {id} is dismissed" in done.stderr
    assert ledger.reader.get(id).state is JobState.FAILED
    assert [job["id"] for job in ask(deployed, "jobs", "--dead")] == []
    again = run(deployed, checkout, "app.jobs::dismiss", "--id", "nonesuch")
    assert (again.returncode, "there is no job 'nonesuch'" in again.stderr) == (2, True)
    whole = finished(ledger, next(job.id for job in ledger.reader.jobs() if job.state is JobState.SUCCEEDED))
    assert run(deployed, checkout, "app.jobs::dismiss", "--id", whole.id).returncode == 2


def test_the_documents_name_of_the_secret_is_the_one_that_is_read() -> None:
    """The line that an operator changes is there, empty as it ships, and told with the command for the secret."""
    text = (ROOT / "app/resources.py").read_text("utf-8")
    assert re.search(r'^HF_SECRET = ""$', text, re.MULTILINE)
    told = re.sub(r"\s+", " ", (ROOT / "app/README.md").read_text("utf-8"))
    assert f"modal secret create {HF_SECRET} HF_TOKEN=hf_…`, that name as `HF_SECRET` in `app/resources.py`" in told
