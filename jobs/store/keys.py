"""Every key of the ledger's dict, once: how it is made, who writes it, what it says, and how long it lives.

A key is a word, a slash, and what it is about; all keys of a word share a prefix, which is a constant here. With its
last part empty, a key of several parts is the prefix of all that agree in the first. The keys stay as they are: what
was stored by an older version is found under them.

On Modal an entry that nobody reads or writes for seven days fades, whatever stands here; on one machine none does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

LASTS = timedelta(days=3)
"""For so long an entry lasts that nobody touches: Modal forgets it in seven days, and of the nights in between, which
read what is to stay by its key, some may not come."""


@dataclass(frozen=True)
class KeyPattern:
    """All keys of one pattern.

    Args:
        pattern: the key, with what differs in angle brackets.
        says: what its value tells.
        writer: who writes it.
        is_once: it is written once and never changed; of racing writers one wins. Else the last one does.
        lives: until when it is there.
        loses: what people miss when it fades; empty where whoever is at work writes it again.

    """

    pattern: str
    says: str
    writer: str
    is_once: bool
    lives: str
    loses: str = ""


# -- jobs --------------------------------------------------------------------------------------------------------------

JOB = "job/"
CLAIM = "claim/"
BEAT = "beat/"
END = "end/"
CANCEL = "cancel/"
GONE = "gone/"
DISMISSED = "dismissed/"
LIVE = "live/"
OPEN = "open/"
OPEN_COMPLETE = "open_complete"
CHANGED = "changed/"
CHANGES_FORGOTTEN = "changes_forgotten"
DEAD_LETTERS = "dead_letters"
WORKER = "worker/"
CLEARED = "cleared"


def job(id: str) -> str:
    return f"{JOB}{id}"


def claim(id: str, n: object) -> str:
    return f"{CLAIM}{id}/{n}"


def beat(id: str, n: object) -> str:
    return f"{BEAT}{id}/{n}"


def end(id: str, n: object) -> str:
    return f"{END}{id}/{n}"


def cancel(id: str) -> str:
    return f"{CANCEL}{id}"


def gone(id: str) -> str:
    return f"{GONE}{id}"


def dismissed(id: str) -> str:
    return f"{DISMISSED}{id}"


def open(id: str) -> str:  # noqa: A001 - named as its word, like the others
    return f"{OPEN}{id}"


def changed(id: str) -> str:
    return f"{CHANGED}{id}"


def worker(lane: str) -> str:
    return f"{WORKER}{lane}"


def live(kind: str, subject: str) -> str:
    return f"{LIVE}{kind}/{subject}"


# -- usage and cost ----------------------------------------------------------------------------------------------------

USAGE = "usage/"
LAST_USED = "last_used"
METER = "meter/"
COLD = "cold/"
WARMING = "warming/"
WANTED = "wanted/"
SPENT = "spent/"


def usage(day: str, writer: str) -> str:
    return f"{USAGE}{day}/{writer}"


def meter(tier: str, container: str) -> str:
    return f"{METER}{tier}/{container}"


def cold(tier: str, container: str, n: object) -> str:
    return f"{COLD}{tier}/{container}/{n}"


def warming(tier: str) -> str:
    return f"{WARMING}{tier}"


def wanted(tier: str) -> str:
    return f"{WANTED}{tier}"


def spent(month: str) -> str:
    return f"{SPENT}{month}"


# -- servers and the weights -------------------------------------------------------------------------------------------

SERVER = "server/"
HEALTH = "health/"
WEIGHTS_GENERATION = "weights/generation"
WEIGHTS_MODELS = "weights/models"
WEIGHTS_ROOM = "weights/room"
UPKEEP_MEMORY = "upkeep/memory"
ALIASES = "aliases"


def server(tier: str, container: str) -> str:
    return f"{SERVER}{tier}/{container}"


def health(tier: str, n: object) -> str:
    return f"{HEALTH}{tier}/{n}"


# -- schedules ---------------------------------------------------------------------------------------------------------

TICK_DONE = "tick/done"
PLATFORM = "platform/"
NIGHT_RAN = "nightly/ran"
NIGHT_TRIES = "nightly/tries"
NIGHTS_SINCE = "nightly/since"
WINDOW = "window/"
WAKE = "wake/"
REFUSED_WAKE = "refused_wake/"
LEAVE = "leave/"


def platform(who: str) -> str:
    return f"{PLATFORM}{who}"


def window(tier: str) -> str:
    return f"{WINDOW}{tier}"


def wake(tier: str, day: str, n: object) -> str:
    return f"{WAKE}{tier}/{day}/{n}"


def refused_wake(tier: str, day: str) -> str:
    return f"{REFUSED_WAKE}{tier}/{day}"


def leave(tier: str) -> str:
    return f"{LEAVE}{tier}"


SORTS_MOVING = "sorts/moving"
SORTS_MOVED = "sorts/moved"


# -- incidents: a `key` is `<kind>/<subject>`, a `case` is `<key>/<n>`, a `change` of it opened or recovered -----------

INCIDENT = "incident/"
SEEN = "seen/"
RECOVERED = "recovered/"
TELLING = "telling/"
TOLD = "told/"
STILL_OPEN = "still_open"


def incident(case: str) -> str:
    return f"{INCIDENT}{case}"


def seen(key: str) -> str:
    return f"{SEEN}{key}"


def recovered(case: str) -> str:
    return f"{RECOVERED}{case}"


def telling(case: str, change: str, attempt: object) -> str:
    return f"{TELLING}{case}/{change}/{attempt}"


def told(case: str, change: str) -> str:
    return f"{TOLD}{case}/{change}"


# -- who may ask -------------------------------------------------------------------------------------------------------

KEY = "key/"


def key(name: str, n: object) -> str:
    return f"{KEY}{name}/{n}"


# -- what keys may take: a `span` is a day or a month ------------------------------------------------------------------

GRANT = "grant/"
TOOK = "took/"


def grant(key: str, span: str, n: object) -> str:
    return f"{GRANT}{key}/{span}/{n}"


def took(key: str, span: str, account: str) -> str:
    return f"{TOOK}{key}/{span}/{account}"


# -- who did what ------------------------------------------------------------------------------------------------------

AUDIT = "audit/"


def audit(day: str, id: str) -> str:
    return f"{AUDIT}{day}/{id}"


# -- batches -----------------------------------------------------------------------------------------------------------

BATCH = "batch/"
BATCH_STATE = "batch_state/"
BATCH_END = "batch_end/"
BATCH_PASS = "batch_pass/"  # noqa: S105 - how keys begin
BATCH_SPEED = "batch_speed/"
BATCH_FILES = "batch_files"


def batch(id: str) -> str:
    return f"{BATCH}{id}"


def batch_state(id: str) -> str:
    return f"{BATCH_STATE}{id}"


def batch_end(id: str) -> str:
    return f"{BATCH_END}{id}"


def batch_pass(id: str) -> str:
    return f"{BATCH_PASS}{id}"


def batch_speed(tier: str, model: str) -> str:
    return f"{BATCH_SPEED}{tier}/{model}"


# -- what is listed together -------------------------------------------------------------------------------------------

OF_JOBS = (JOB, CLAIM, BEAT, END, CANCEL, GONE, DISMISSED)
"""All facts of jobs: who reads every job lists these."""

CASES = (INCIDENT, SEEN, RECOVERED, TELLING, TOLD)
"""All facts of incidents, but for when all that are open were last so."""

BY_TIME = (END, GONE, CHANGED)
"""What one machine's file finds by its `at` as well, however much of it there is."""

FOR_SERVERS = (WARMING, WANTED, LEAVE)
"""What the containers of a tier are told."""

OF_MINUTES = (WANTED, LEAVE)
"""What counts for minutes, while somebody waits: nobody looks where an older version wrote it, if it knew of it."""

SORTS: Mapping[str, tuple[str, ...]] = {
    "open": (OPEN, OPEN_COMPLETE, WORKER),
    "reports": (SERVER, HEALTH),
    "changes": (CHANGED, CHANGES_FORGOTTEN, DEAD_LETTERS),
    "usage": (USAGE, LAST_USED, METER, SPENT, COLD),
    "incidents": (*CASES, STILL_OPEN),
    "audit": (AUDIT,),
    "access": (KEY, GRANT, TOOK),
    "batches": (BATCH, BATCH_STATE, BATCH_END, BATCH_PASS, BATCH_SPEED, BATCH_FILES),
    "schedules": (TICK_DONE, PLATFORM, NIGHT_RAN, NIGHT_TRIES, NIGHTS_SINCE, WINDOW, WAKE, REFUSED_WAKE, *FOR_SERVERS),
}
"""What a platform keeps apart, so that listing it reads nothing else; how its keys begin. The rest lies with jobs."""

NEVER_AMONG_JOBS = frozenset({"access", "audit", "batches"})
"""Sorts that no version kept with the jobs, so that nobody looks for them there."""


# -- all of them -------------------------------------------------------------------------------------------------------

_RETIRED = "an hour after its job was retired"
_CASE = "archived some days after the incident has passed, unless a later one of its key is known"
_LATER = "archived some days later"
_STAYS = "stays"
_HEARD = "removed some days later"
_KEPT = "removed with its files, when they are no longer kept"

_ROWS: tuple[tuple[str, str, str, bool, str], ...] = (
    # pattern, what it says, who writes it, whether once, until when it is there
    (job("<id>"), "the request; writing it is the posting", "whoever posts", True, "a month after it was retired"),
    (live("<kind>", "<subject>"), "at which job of this subject to look first", "whoever posts", False, _STAYS),
    (claim("<id>", "<n>"), "attempt n belongs to this token; its lease",
     "a worker, or whoever cancels a job that nobody runs", True, _RETIRED),
    (beat("<id>", "<n>"), "when its holder was heard of; progress", "the holder of claim n", False, _RETIRED),
    (end("<id>", "<n>"), "how attempt n ended", "the holder of claim n, or the sweep that gave it up", True, _RETIRED),
    (cancel("<id>"), "who asked to cancel it, and when", "anyone allowed", True, _RETIRED),
    (dismissed("<id>"), "who knows that it failed for good, and has no need of it", "anyone allowed", True, _RETIRED),
    (gone("<id>"), "it is archived: not listed any more", "the archive", False, "as long as the job's own"),
    (open("<id>"), "it is open, as far as whoever wrote this knew: its request, attempt and place in the queue",
     "whoever posts, claims, ends or sweeps it", False, "until the job has ended"),
    (OPEN_COMPLETE, "when all jobs were last compared with those that are said to be open", "a sweep, the night",
     False, _STAYS),
    (CLEARED, "up to which mark the facts of archived jobs are removed", "the archive on one machine", False, _STAYS),
    (changed("<id>"), "how it stands since it ended or was dismissed; or that it was archived, and which with it",
     "whoever did that", False, "removed an hour later, when next something is archived"),
    (CHANGES_FORGOTTEN, "what changed until then may be told of no more", "the archive", False, _STAYS),
    (DEAD_LETTERS, "by the last look: dead letters, the last nights' and the newest jobs, how many; who was heard of",
     "the check for alerts, the night, the archive", False, _STAYS),
    (worker("<lane>"), "until when the lane has a worker at work", "that worker", False, _STAYS),
    (usage("<day>", "<writer>"), "who used what that day", "each gateway its own", False, "archived two weeks later"),
    (LAST_USED, "when each model was last used, by archived usage", "the archive", False, _STAYS),
    (meter("<tier>", "<container>"), "the seconds of one container, by what they went to", "that container", False,
     "archived when it has not counted for a day"),
    (warming("<tier>"), "until when somebody warms a model there", "the servers worker", False, _HEARD),
    (cold("<tier>", "<container>", "<n>"), "the phases of one start of a server, or of one load in it",
     "that server; with the whole of the wait, the gateway", False, _LATER),
    (wanted("<tier>"), "which models are to be in memory first there, and when each was asked for", "whoever wakes it",
     False, f"{_HEARD}; counts for some minutes"),
    (spent("<month>"), "what the archive knows of that month's cost", "the archive", False, _STAYS),
    (server("<tier>", "<container>"), "how a server is", "that server; one that went silent: the tick", False,
     "archived when it has not reported for a day"),
    (health("<tier>", "<n>"), "from when on a tier was so; each n once", "the check for alerts", True,
     "archived some days later, but for the last of a tier that is there"),
    (WEIGHTS_GENERATION, "differs from before when the weights have changed", "the weights worker", False, _STAYS),
    (WEIGHTS_MODELS, "size and header of each whole model", "the weights worker; on one machine the night's thread",
     False, _STAYS),
    (WEIGHTS_ROOM, "how many bytes the weights take", "as above", False, _STAYS),
    (UPKEEP_MEMORY, "who used, fetched and verified what, from jobs that are gone", "the night", False, _STAYS),
    (ALIASES, "the names that `ollama cp` made, and the models behind them", "the gateway", False, _STAYS),
    (TICK_DONE, "when a tick last did all of its work", "the tick", False, _STAYS),
    (platform("<who>"), "what the platform failed at, or that the app was away", "whoever met it", False, _STAYS),
    (NIGHT_RAN, "what the last night posted, and why", "the night", False, _STAYS),
    (NIGHT_TRIES, "how often the night that is due was tried", "the night, or who sends for it", False, _STAYS),
    (NIGHTS_SINCE, "from when on nights are expected here", "the check for alerts", True, _STAYS),
    (SORTS_MOVING, "when an entry was last found among the jobs that belongs elsewhere", "the weights worker", False,
     _STAYS),
    (SORTS_MOVED, "since when none is looked for there", "the weights worker", False, _STAYS),
    (window("<tier>"), "whether a window keeps the tier awake; not, once the tier is gone", "the tick", False, _STAYS),
    (wake("<tier>", "<day>", "<n>"), "one of a day's wakes of our own, and why", "whoever wakes", True, _LATER),
    (refused_wake("<tier>", "<day>"), "a wake of our own was refused that day", "whoever was refused", False, _LATER),
    (leave("<tier>"), "since when batches keep the tier awake that was asleep; that its servers may leave since",
     "the batches worker", False, _HEARD),
    (incident("<key>/<n>"), "since when it is so, in which words", "the check for alerts", True, _CASE),
    (seen("<key>"), "when it was last still so, as an older version wrote it", "the check for alerts", False, _CASE),
    (STILL_OPEN, "by the key of each incident that is open, when it was last still so", "the check for alerts", False,
     _STAYS),
    (recovered("<key>/<n>"), "when it has passed", "the check for alerts", True, _CASE),
    (telling("<key>/<n>", "<change>", "<k>"), "somebody tries for the k-th time to tell of it", "who tells the webhook",
     True, _CASE),
    (told("<key>/<n>", "<change>"), "it is told, or given up", "who tells the webhook", True, _CASE),
    (key("<name>", "<n>"), "version n of a key: what proves it, and what it may; that it is revoked",
     "whoever makes, changes or revokes it", True, "the last version stays, a revoked one for 90 days"),
    (grant("<key>", "<span>", "<n>"), "version n of what gateways are granted of a key's budgets in a day or a month",
     "a gateway", True, "some minutes after the next one; the last until some days after its span"),
    (took("<key>", "<span>", "<account>"), "what requests took of what that account was granted", "the gateway of it",
     False, "until a version has it; else until some days after its span"),
    (audit("<day>", "<id>"), "who did what, by which request; how it went", "whoever does it, before and after", False,
     _LATER),
    (batch("<id>"), "a batch as it was posted", "whoever posts it", True, _KEPT),
    (batch_state("<id>"), "how a batch stands", "the attempt that holds it", False, _KEPT),
    (batch_end("<id>"), "how a batch ended, and where its results are", "the attempt that held it", True, _KEPT),
    (batch_pass("<id>"), "what proves a line of this batch to the gateway, and until when",
     "the attempt that holds it", False, "until the batch has ended"),
    (batch_speed("<tier>", "<model>"), "what lines of that model took there", "batches that ended", False, _STAYS),
    (BATCH_FILES, "when files of batches were looked through, and when the next is over", "who brings or prunes them",
     False, _STAYS),
)  # fmt: skip

_OPEN_JOBS = "jobs that were not archived yet, those among them that had not ended"
_INCIDENTS = "incidents that were open, or had just passed"
_LOSES: dict[str, str] = {
    **dict.fromkeys((JOB, CLAIM, BEAT, END, CANCEL, DISMISSED), _OPEN_JOBS),
    USAGE: "who used what in the last two weeks",
    LAST_USED: "when each model was last used",
    METER: "what the last day's containers cost",
    COLD: "how the last days' cold starts went",
    HEALTH: "how the tiers were in the last days",
    UPKEEP_MEMORY: "what was verified when, and which versions were rolled back from",
    NIGHT_RAN: "what the last night did",
    KEY: "which keys there are, until the copy on the volume is read",
    **dict.fromkeys((GRANT, TOOK), "what keys took of their budgets, but for what the usage knows"),
    AUDIT: "who did what in the last days",
    **dict.fromkeys((BATCH, BATCH_STATE, BATCH_END), "batches that nobody asked for in a week, but for their files"),
    BATCH_SPEED: "how fast batches were, for the next estimate",
    BATCH_FILES: "when files of batches that nobody posted are over",
    **dict.fromkeys((INCIDENT, RECOVERED), _INCIDENTS),
}
"""By what the keys begin with."""

TABLE = tuple(KeyPattern(*row, loses=_LOSES.get(row[0].partition("<")[0], "")) for row in _ROWS)
