"""Who reads all jobs of a ledger, and why no less will do; nobody else does."""

import ast
from collections.abc import Iterator

from tests.support.checkout import ROOT

WHOLE = {"jobs", "select", "unended", "ended", "ids", "newest_first", "count"}
"""What a reader of a ledger answers by a listing of all jobs, of their facts or keys, where the store has no order."""

READERS = {
    "app.deployment.volume_queries: jobs": "a plan of a night or of a prune, for somebody who asks, and a prune",
    "app.gateway.ops.job_lists: ids": "those whose id begins so: nothing else finds these; of SQLite a range",
    "app.local.coming_night: jobs": "a plan of a night, for somebody who asks",
    "app.scheduler.runs: jobs": "a night, once: it compares what is known of the jobs with all of them",
    "jobs.archive.archive: ended": "what is archived, at most once an hour; of SQLite what ended long ago",
    "jobs.cli.completion: newest_first": "on one machine, some of the newest",
    "jobs.cli.job_commands: ids": "the job whose id begins so: nothing else finds it; of SQLite a range",
    "jobs.cli.job_commands: select": "of a gateway, which has pages; elsewhere `listed` and `dead` take its place",
    "jobs.home.prune_preview: jobs": "a plan of a prune on one machine, for somebody who asks, and a prune",
    "jobs.ledger.ledger: unended": "once, where nobody has compared the index with all jobs; of SQLite what is new",
    "jobs.listing.dead_memory: jobs": "where no look was left, as by an older version",
    "jobs.listing.jobs_view: jobs": "for who reads on after the newest jobs, once and then what has changed",
}


def test_who_reads_all_jobs_says_why() -> None:
    """Each place that asks a reader for all jobs has a line above."""
    assert set(_found()) == READERS.keys()


def test_no_other_lists_the_facts_of_all_jobs() -> None:
    """Beside the reader of a ledger only who removes what is left of archived jobs lists their facts."""
    naming = [module for module, text in _sources() if "keys.OF_JOBS" in text]
    assert naming == ["jobs.ledger.expiry", "jobs.ledger.reader"]


def _found() -> Iterator[str]:
    for module, text in _sources():
        if module == "jobs.ledger.reader":
            continue
        for node in ast.walk(ast.parse(text)):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in WHOLE
                and "reader" in ast.unparse(node.func.value).lower()
            ):
                yield f"{module}: {node.func.attr}"


def _sources() -> Iterator[tuple[str, str]]:
    for folder in ("app", "jobs"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            yield ".".join(file.relative_to(ROOT).with_suffix("").parts), file.read_text("utf-8")
