"""Whether anything later supersedes a job, asked of the ledger for one job and not found out from all of them."""

from jobs.ledger import dead_letters
from jobs.ledger.job import Job
from jobs.ledger.kinds import ALL, KINDS, Kinds
from jobs.ledger.reader import LedgerReader


def is_current(reader: LedgerReader, job: Job, kinds: Kinds = KINDS) -> bool:
    """Whether the ledger has no later job of its kind and subject, nor one that changed those weights.

    As `jobs.ledger.dead_letters.current` has it, by some reads of each kind that changes weights.
    """
    changing = [name for name, kind in kinds.items() if kind.changes_weights]
    for kind in dict.fromkeys((job.kind, *changing)):
        latest = reader.latest(kind, job.subject)
        if latest is not None and latest.age > job.age:
            return False
    return not any(_changed_since(reader, kind, job, kinds) for kind in changing)


def _changed_since(reader: LedgerReader, kind: str, job: Job, kinds: Kinds) -> bool:
    """Whether one of a kind that is about all models has changed the weights of this one, as a prune does."""
    latest = reader.latest(kind, ALL)
    while latest is not None and latest.age > job.age:
        if job.subject in dead_letters.changed(latest, kinds):
            return True
        line, _, generation = latest.id.rpartition("-")
        latest = reader.find(f"{line}-{int(generation) - 1}")
    return False
