"""Dead letters: the jobs that failed for good, and that nothing which was posted later has superseded. Pure.

A job supersedes those before it that are of its kind and subject, and, when it changes weights, all those about the
same weights: whoever pulls a model after its delete failed wants it no longer deleted.

Grouped by the class of their failure, because an outage kills many jobs in one way, and one remedy serves them all.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from jobs.core.errors import FAILURE_CLASSES, BadName, BadRequest, Refused
from jobs.core.model_name import ModelName
from jobs.core.sanitize import plain
from jobs.core.units import counted, local_time
from jobs.ledger.job import Job, JobState
from jobs.ledger.job_text import AGAIN, REMEDIES_OF_KINDS, remedy_of_kind, trouble
from jobs.ledger.kinds import KINDS, Kinds

LIKELY: Mapping[str, str] = {
    "not_found": "the names are wrong, or their publishers took the models away: ask for the right names",
    "auth": "sign in where the models are kept, or ask for public ones; then retry them all",
    "disk": "make room or raise the quota; then retry them all: what was fetched is kept",
    "network": "an outage, here or there; when it is over, retry them all: what was fetched is kept",
    "corrupt": "the bytes were wrong twice; wait for the registry to mend them, then retry them all",
    "killed": "their workers died again and again; see why in the log, then retry them all: what was fetched is kept",
    "refused": "they cannot be done as asked: change what each message names, and ask anew",
    "bug": "our mistake: please report one of them with what `ollama-modal job ID --json` prints",
}
"""What to do about all jobs of a class, most likely."""

POINTLESS = frozenset({"not_found", "refused", "bug"})
"""Classes of which a second try meets the same."""


def class_of(job: Job) -> str:
    return (job.attempts[-1].failure_class if job.attempts else None) or "bug"


def dead(jobs: Iterable[Job], kinds: Kinds = KINDS) -> list[Job]:
    """The failed jobs that no later one supersedes, whatever became of it, and nobody dismissed; newest first."""
    return [job for job in current(jobs, kinds) if is_dead(job)]


def is_dead(job: Job) -> bool:
    """Whether a job that nothing supersedes is a dead letter."""
    return job.state is JobState.FAILED and not job.dismissed


def current(jobs: Iterable[Job], kinds: Kinds = KINDS) -> list[Job]:
    """The jobs that no later one supersedes, whatever became of them; newest first."""
    seen: set[tuple[str, str]] = set()
    weights_changed: set[str] = set()
    found = []
    for job in sorted(jobs, key=lambda job: job.age, reverse=True):
        if (job.kind, job.subject) not in seen and job.subject not in weights_changed:
            found.append(job)
        seen.add((job.kind, job.subject))
        weights_changed.update(changed(job, kinds))
    return found


FOLDED_FROM = 5
"""So many failures of one kind are shown as one; of fewer, people want to see each."""


@dataclass(frozen=True)
class DeadGroup:
    """Dead letters of one kind and class of failure, which one remedy serves.

    Args:
        kind: theirs.
        failure_class: theirs.
        jobs: the newest first.

    """

    kind: str
    failure_class: str
    jobs: tuple[Job, ...]

    @property
    def newest(self) -> Job:
        return self.jobs[0]

    @property
    def is_folded(self) -> bool:
        """Whether they are so many that they are shown as one."""
        return len(self.jobs) >= FOLDED_FROM

    @property
    def remedy(self) -> str:
        """What to do about all of them."""
        template = REMEDIES_OF_KINDS.get((self.kind, self.failure_class))
        if template is None:
            return LIKELY.get(self.failure_class, LIKELY["bug"])
        return template.removesuffix(f", {AGAIN}").format(id="ID", subject="MODEL")

    def is_worth_retrying(self, kinds: Kinds = KINDS) -> bool:
        """Whether to post all of them again may help, and takes no weights away."""
        return self.failure_class not in POINTLESS and not takes_away(self.newest, kinds)


def groups(dead: Iterable[Job]) -> tuple[DeadGroup, ...]:
    """Dead letters by kind and class of failure, the largest group first."""
    found: dict[tuple[str, str], list[Job]] = defaultdict(list)
    for job in sorted(dead, key=lambda job: job.age, reverse=True):
        found[job.kind, class_of(job)].append(job)
    ordered = sorted(found.items(), key=lambda entry: (-len(entry[1]), entry[0]))
    return tuple(DeadGroup(kind, name, tuple(jobs)) for (kind, name), jobs in ordered)


def takes_away(job: Job, kinds: Kinds = KINDS) -> bool:
    """Whether it takes weights away; of a kind that is not known here, nobody can say that it does not."""
    return job.kind not in kinds or kinds[job.kind].takes_away


def need_current(job: Job, later: Sequence[Job], *, is_listed: bool) -> None:
    """Insist that nothing was done since with the weights that this job takes away (`takes_away`).

    Args:
        job: it.
        later: what supersedes it.
        is_listed: the ledger has it still.

    Raises:
        Refused: something was, or the job is archived, and what came after it may be so as well.

    """
    what = f"the {job.kind} of {job.subject}, job {job.id},"
    anyway = f"if it is still wanted: `ollama-modal retry {job.id} --anyway`"
    if not is_listed:
        raise Refused(f"{what} is archived, and what was done since is not known for certain", hint=anyway)
    if later:
        newest_first = sorted(later, key=lambda job: job.age, reverse=True)
        done = ", ".join(f"{other.kind} {other.subject} ({other.state}, job {other.id})" for other in newest_first[:3])
        more = f" and {len(later) - 3:,} more" if len(later) > 3 else ""
        raise Refused(f"{what} is superseded: since then came {done}{more}", hint=anyway)


def changed(job: Job, kinds: Kinds) -> set[str]:
    """The subjects whose weights a job changes, as far as it has told."""
    if job.kind not in kinds or not kinds[job.kind].changes_weights:
        return set()
    thrown = (job.result or {}).get("throw")
    names = [each.get("name") for each in thrown if each.get("what") == "model"] if isinstance(thrown, list) else []
    return {job.subject, *(folded for name in names if (folded := _folded(name)))}


def _folded(name: object) -> str | None:
    try:
        return str(ModelName.parse(str(name)).folded())
    except BadName:
        return None


def of_class(jobs: Iterable[Job], wanted: str | None) -> list[Job]:
    """The dead letters whose failure is of this class, or all of them.

    Raises:
        BadRequest: there is no such class.

    """
    if wanted is not None and wanted not in FAILURE_CLASSES:
        raise BadRequest(f"there is no class of failure {wanted!r}", hint=f"classes are {', '.join(FAILURE_CLASSES)}")
    return [job for job in dead(jobs) if wanted in {None, class_of(job)}]


def lines(jobs: Sequence[Job], now: datetime) -> Iterator[str]:
    """The dead letters for people: each class with its jobs and the likely remedy."""
    groups: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        groups[class_of(job)].append(job)
    for name, group in sorted(groups.items(), key=lambda entry: (-len(entry[1]), entry[0])):
        yield f"{name}: {counted(len(group), 'job')}"
        for job in group:
            why = trouble(job.attempts[-1]) if job.attempts else ""
            yield f"  {job.id}  {job.kind} {plain(job.subject)}  {local_time(job.posted_at, now)}  {why}"
            if of_kind := remedy_of_kind(job):
                yield f"    to do: {plain(of_kind)}"
        if not all(map(remedy_of_kind, group)):
            yield f"  to do: {LIKELY[name]}"
        if name not in POINTLESS and not all(map(takes_away, group)):
            yield f"         `ollama-modal retry --all --class {name}`"
        yield "         or nothing, and hear no more of one: `ollama-modal dismiss ID`"
