"""What the upkeep of the weights has to know beside the directory: who used what, what came when, what was verified.

Uses and ended jobs tell it, but both are forgotten in time. So a night writes down what they said, and adds what is new
to what is written: `recall` joins the two, `remember` writes the sum. It removes nothing and posts nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
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
    used = {ModelName.parse(name): at for name, at in last_used(facts).items()}
    began = [datetime.combine(datetime.fromisoformat(row.about.day), time(), UTC) for row in usage(facts)]
    since = min([*began, *([memory.used_since] if memory.used_since else [])], default=None)
    for job in sorted(jobs, key=lambda job: job.posted_at):
        if job.state is JobState.SUCCEEDED and job.ended_at is not None:
            memory = _learned(memory, job, job.ended_at)
    return replace(memory, used=_later(memory.used, used), used_since=since)


def remember(facts: DictLike, memory: Memory) -> None:
    facts.put(keys.UPKEEP_MEMORY, memory.as_json())


def _learned(memory: Memory, job: Job, at: datetime) -> Memory:
    """What a job that succeeded adds to the memory; the second time, nothing more."""
    result, subject = job.result or {}, _names([job.subject])
    match job.kind:
        case "pull":
            again = {
                name
                for name, left in memory.left.items()
                if name in subject and left.digest == result.get("digest") and at > left.at
            }
            hashed = subject if result.get("way") == "registry" else frozenset()
            return replace(
                memory,
                came=_later(memory.came, dict.fromkeys(subject, at)),
                verified=_later(memory.verified, dict.fromkeys(hashed, at)),
                left={name: left for name, left in memory.left.items() if name not in again},
            )
        case "verify":
            return replace(
                memory, verified=_later(memory.verified, dict.fromkeys(_names(result.get("models", ())), at))
            )
        case "rollback" if isinstance(result.get("left"), str):
            newer = {name for name in subject if name not in memory.left or at > memory.left[name].at}
            return replace(memory, left={**memory.left, **dict.fromkeys(newer, LeftModel(result["left"], at))})
    return memory


def _names(texts: Iterable[str]) -> frozenset[ModelName]:
    names = set()
    for text in texts:
        try:
            names.add(ModelName.parse(text).folded())
        except BadName:  # a job about all models, or a server's word for something else
            continue
    return frozenset(names)


def _later(one: Mapping[ModelName, datetime], other: Mapping[ModelName, datetime]) -> dict[ModelName, datetime]:
    return {name: max(each[name] for each in (one, other) if name in each) for name in {*one, *other}}


def _as_json(moments: Mapping[ModelName, datetime]) -> dict[str, str]:
    return {str(name): isoformat(at) for name, at in sorted(moments.items())}


def _read(document: Mapping[str, str]) -> dict[ModelName, datetime]:
    return {ModelName.parse(name): parse_moment(at) for name, at in document.items()}
