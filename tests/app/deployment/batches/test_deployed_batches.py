"""Batches that `modal run` posts: what is refused before anything is kept, what is told of models and of the price."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from app.deployment.batches.deployed_batches import DeployedBatches
from app.deployment.batches.deployed_estimates import DeployedEstimates
from app.fleet.file import read
from app.fleet.schema import parse
from app.model_server.report import Report
from jobs.access.audit import Audit
from jobs.batches.lines.line_check import LineRules, check
from jobs.core.errors import BadRequest, NotFound, QuotaExceeded, Refused
from jobs.ledger.kinds import BATCHES_LANE
from jobs.store import keys
from jobs.testing.clock import HandClock
from tests.support.batch_files import line, packed
from tests.support.stores import Store

LINES = b"".join(packed(map(line, range(1, 4))))


@dataclass
class FolderVolume:
    """A volume that is a folder."""

    root: Path
    taken: int = 0
    put_at: list[str] = field(default_factory=list)

    def put(self, files: Mapping[str, Path], mode: int = 0o600) -> None:
        for path, file in files.items():
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, self.root / path)
            (self.root / path).chmod(mode)
            self.put_at.append(path)

    def fetch(self, path: str, into: BinaryIO) -> None:
        into.write((self.root / path).read_bytes())

    def bytes_in(self, folder: str) -> int:
        assert folder == "/"
        return self.taken


@dataclass
class Case:
    store: Store
    volume: FolderVolume
    sent: list[str] = field(default_factory=list)
    is_deployed: bool = True

    @property
    def batches(self) -> DeployedBatches:
        document = read()
        document["aliases"] = {"gpt-4o": "llama3.2"}
        document["batches"] = {"quota_gb": 1, "most_file_mb": 1, "start": "awake"}
        fleet, audit = parse(document, "test"), Audit(self.store.facts, self.store.clock)
        return DeployedBatches(
            facts=self.store.facts,
            ledger=self.store.ledger(),
            volume=self.volume,  # type: ignore[arg-type]
            fleet=lambda: fleet,
            clock=self.store.clock,
            who=lambda: "anna@laptop",
            acts=lambda act, subject: audit.act(who="anna@laptop", request="test", act=act, subject=subject),
            is_deployed=lambda: self.is_deployed,
            send_worker=self.sent.append,
        )

    def post(self, lines: bytes = LINES) -> Mapping[str, Any]:
        return self.batches.post(
            [lines], filename="lines.jsonl", endpoint="/v1/chat/completions", expires_at=None, start=None,
            max_dollars=None,
        )  # fmt: skip


@pytest.fixture
def clock() -> HandClock:
    return HandClock(datetime(2026, 3, 2, 12, tzinfo=UTC))


@pytest.fixture
def case(store: Store, tmp_path: Path) -> Case:
    store.facts.put(keys.WEIGHTS_MODELS, {"llama3.2:latest": {"size": 2_000_000_000, "facts": None}})
    return Case(store, FolderVolume(tmp_path / "volume"))


def test_a_file_lies_on_the_volume_before_its_batch_is_posted(case: Case) -> None:
    """As a gateway would have brought it, as nobody's; it begins as the fleet says, and a worker is sent."""
    posted = case.post()

    assert (posted["start"], posted["owner"], posted["posted_by"]) == ("awake", "", "anna@laptop")
    file = posted["input_file_id"]
    assert case.volume.put_at == [f"files/{file}/content", f"files/{file}/record.json"]
    assert b"".join(case.batches.content(file)) == LINES
    assert case.sent == [BATCHES_LANE]
    [job] = case.store.ledger().reader.jobs()
    assert (job.kind, job.subject) == ("batch", posted["id"])
    assert case.batches.all(10)[0] == [case.batches.get(posted["id"])]


@pytest.mark.parametrize("why", ["not deployed", "too large", "no room"])
def test_what_is_refused_keeps_nothing(case: Case, why: str) -> None:
    """Neither a file nor a batch, and no worker comes."""
    case.is_deployed = why != "not deployed"
    case.volume.taken = 1_000_000_000 if why == "no room" else 0
    kind, lines = {
        "not deployed": (Refused, LINES),
        "too large": (BadRequest, b"x" * 1_100_000),
        "no room": (QuotaExceeded, LINES),
    }[why]

    with pytest.raises(kind):
        case.post(lines)

    assert (case.volume.put_at, case.sent) == ([], [])
    assert case.store.ledger().reader.jobs() == []


def test_a_model_is_here_by_any_of_its_names(case: Case) -> None:
    """By its own, or by an alias of the fleet; what is not is told with how to bring it. Nobody knows while no worker
    has told what there is."""
    assert case.batches.missing("llama3.2") is None
    assert case.batches.missing("gpt-4o") is None
    assert isinstance(case.batches.missing("mixtral"), NotFound)
    case.store.facts.pop(keys.WEIGHTS_MODELS)
    assert case.batches.missing("mixtral") is None


def test_it_is_told_what_it_takes_and_when_it_begins(case: Case) -> None:
    """With the wake that it needs and the idle time after that, which a GPU that is awake saves."""
    lines = LINES.replace(b'"m"', b'"gpt-4o"')
    assert b"gpt-4o" in lines
    checked = check([lines], LineRules("/v1/chat/completions"))
    asked: dict[str, Any] = {"endpoint": "/v1/chat/completions", "expires_at": None, "max_dollars": None}

    now = DeployedEstimates(case.batches)(checked, start="now", **asked)
    later = DeployedEstimates(case.batches)(checked, start="awake", **asked)
    report = Report("a10g", "ta-1", "serving", case.store.clock.now())
    case.store.facts.put(report.key, report.as_json())
    awake = DeployedEstimates(case.batches)(checked, start="awake", **asked)

    assert now["extra_dollars"] > 0
    assert later["starts_at"] > (case.store.clock.now() + timedelta(hours=20)).isoformat()
    assert later["note"].startswith("waits for a GPU of a10g to be awake")
    assert (awake["extra_dollars"] or 0, awake["note"]) == (0, "")


def test_a_batch_that_is_cancelled_has_a_worker_finish_it(case: Case) -> None:
    """What is done of it is put together by somebody."""
    posted = case.post()
    case.sent.clear()

    assert case.batches.cancel(posted["id"])["status"] == "cancelling"
    assert case.sent == [BATCHES_LANE]
