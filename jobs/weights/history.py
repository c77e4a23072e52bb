"""What the upkeep of the weights has to know beside the directory: who used what, what came when, what was verified.

Uses and ended jobs tell it, but both are forgotten in time. So a night writes down what they said, and adds what is new
to what is written: `recall` joins the two, `remember` writes the sum. It removes nothing and posts nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, time
from typing import Any, Self

from jobs.core.clock import isoformat, parse_moment
from jobs.core.errors import BadName
from jobs.core.model_name import ModelName
from jobs.ledger.job import Job, JobState
from jobs.store import keys
from jobs.store.protocols import DictLike, ReadableDict
from jobs.telemetry.usage import last_used, usage
from jobs.weights.prune_plan import WeightsUse
from jobs.weights.staging import slug, staging_subject

STAGING_KINDS = frozenset({"pull", "verify"})


@dataclass(frozen=True)
class LeftModel:
    """A version of a model that somebody rolled back from: its digest, and when."""

    digest: str
    at: datetime


@dataclass(frozen=True)
class Memory:
    """By folded name: when a model was last used, came, and was read in full; and which version nobody wants.

    `used_since` is from when on uses were recorded, None as long as there is no record.
    """

    used: Mapping[ModelName, datetime] = field(default_factory=dict)
    used_since: datetime | None = None
    came: Mapping[ModelName, datetime] = field(default_factory=dict)
    verified: Mapping[ModelName, datetime] = field(default_factory=dict)
    left: Mapping[ModelName, LeftModel] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {
            "v": 1,
            "used": _as_json(self.used),
            "used_since": isoformat(self.used_since) if self.used_since else None,
            "came": _as_json(self.came),
            "verified": _as_json(self.verified),
            "left": {str(name): {"digest": left.digest, "at": isoformat(left.at)} for name, left in self.left.items()},
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        since = document.get("used_since")
        left = {
            name: LeftModel(each["digest"], parse_moment(each["at"])) for name, each in document.get("left", {}).items()
        }
        return cls(
            used=_read(document.get("used", {})),
            used_since=parse_moment(since) if since else None,
            came=_read(document.get("came", {})),
            verified=_read(document.get("verified", {})),
            left={ModelName.parse(name): each for name, each in left.items()},
        )

    def weights_use(self, jobs: Iterable[Job], loaded: Iterable[str] = ()) -> WeightsUse:
        """What a prune has to know now: this, and who is at work. `loaded` are models in a server's memory."""
        open_jobs = [job for job in jobs if not job.has_ended]
        live = [job for job in open_jobs if job.kind in STAGING_KINDS]
        return WeightsUse(
            used=self.used,
            used_since=self.used_since,
            came=self.came,
            pulling=_names(job.subject for job in live if job.kind == "pull"),
            staging=frozenset(slug(staging_subject(job)) for job in live),
            loaded=_names(loaded),
            is_pruned=any(job.kind == "prune" for job in open_jobs),
        )


def recall(facts: ReadableDict, jobs: Iterable[Job]) -> Memory:
    """What is written down, with what the uses and the ended jobs of the ledger add to it."""
    written = facts.get(keys.UPKEEP_MEMORY)
    memory = Memory.from_json(written) if isinstance(written, dict) else Memory()
    rows = usage(facts)
    used = dict(memory.used)
    for name, at in last_used(facts, rows).items():
        _advance(used, ModelName.parse(name), at)
    began = (datetime.combine(datetime.fromisoformat(day), time(), UTC) for day in {row.about.day for row in rows})
    since = min([*began, *([memory.used_since] if memory.used_since else [])], default=None)
    learned = _Learned(dict(memory.came), dict(memory.verified), dict(memory.left))
    for job in sorted(jobs, key=lambda job: job.posted_at):
        if job.state is JobState.SUCCEEDED and job.ended_at is not None:
            learned.add(job, job.ended_at)
    return Memory(used, since, learned.came, learned.verified, learned.left)


def remember(facts: DictLike, memory: Memory) -> None:
    facts.put(keys.UPKEEP_MEMORY, memory.as_json())


@dataclass
class _Learned:
    """What jobs tell, one after the other; each costs the same, however many models and jobs there are."""

    came: dict[ModelName, datetime]
    verified: dict[ModelName, datetime]
    left: dict[ModelName, LeftModel]

    def add(self, job: Job, at: datetime) -> None:
        """What a job that succeeded adds; the second time, nothing more."""
        result = job.result or {}
        match job.kind:
            case "pull":
                for name in _names([job.subject]):
                    left = self.left.get(name)
                    if left is not None and left.digest == result.get("digest") and at > left.at:
                        del self.left[name]
                    _advance(self.came, name, at)
                    if result.get("way") == "registry":
                        _advance(self.verified, name, at)
            case "verify":
                for name in _names(result.get("models", ())):
                    _advance(self.verified, name, at)
            case "rollback" if isinstance(result.get("left"), str):
                for name in _names([job.subject]):
                    if name not in self.left or at > self.left[name].at:
                        self.left[name] = LeftModel(result["left"], at)


def _advance(moments: dict[ModelName, datetime], name: ModelName, at: datetime) -> None:
    moments[name] = max(at, moments.get(name, at))


def _names(texts: Iterable[str]) -> frozenset[ModelName]:
    names = set()
    for text in texts:
        try:
            names.add(ModelName.parse(text).folded())
        except BadName:  # a job about all models, or a server's word for something else
            continue
    return frozenset(names)


def _as_json(moments: Mapping[ModelName, datetime]) -> dict[str, str]:
    return dict(sorted((str(name), isoformat(at)) for name, at in moments.items()))


def _read(document: Mapping[str, str]) -> dict[ModelName, datetime]:
    return {ModelName.parse(name): parse_moment(at) for name, at in document.items()}
