"""The command line: `ollama-modal`. It posts jobs and reads what is there; the work itself is done by workers in `up`.

Data goes to stdout, talk to stderr. Exit codes: 0 done, 1 the work failed, 2 the call was wrong, 130 interrupted.
What takes long to import is imported by the command that needs it: listing jobs is to feel instant.
"""

import gc
import getpass
import os
import socket
import sqlite3
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, NoReturn

import typer
from loguru import logger
from typer.exceptions import TyperException

from jobs.clock import SystemClock
from jobs.errors import BadRequest, NotFound, Refused, Trouble
from jobs.following import follow
from jobs.home import Home, home_of
from jobs.ledger import Ledger, Posted
from jobs.names import ModelName
from jobs.plain import plain
from jobs.record import KINDS, Job, State
from jobs.story import moment, remedy, result, share, story, trouble
from jobs.terminal import complain, put, put_json, put_table, say, settle_streams
from jobs.units import parse_bytes

WAYS = ("auto", "registry", "server")
LISTED = 20
"""Jobs that fit on a screen."""

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Many open models behind one address. Jobs survive; the GPU sleeps.",
)

Name = Annotated[str, typer.Argument(metavar="MODEL", help="For example llama3.2, deepseek-r1:32b, hf.co/user/repo:Q4")]
Id = Annotated[str, typer.Argument(metavar="ID", help="A job's id, or as much of its beginning as is unique")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the job to its end, or print its id and return")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout")]
Attempts = Annotated[int | None, typer.Option("--attempts", metavar="N", min=1, help="How often to try in all")]


@dataclass(frozen=True)
class Here:
    """What every command works with: the home, its ledger, the clock."""

    home: Home
    ledger: Ledger
    clock: SystemClock

    @property
    def now(self) -> datetime:
        """In the zone of the person who reads."""
        return self.clock.now().astimezone()

    def is_worked(self) -> bool:
        return self.home.up_pid() is not None


def here() -> Here:
    clock = SystemClock()
    home = home_of(os.environ)
    return Here(home, home.ledger(clock), clock)


def who() -> str:
    """Who is asking, for the record."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that has no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit")] = False,
) -> None:
    if version:
        from importlib.metadata import version as version_of  # noqa: PLC0415 - takes as long as a whole command

        put(f"ollama-modal {version_of('ollama-modal')}")
    elif context.invoked_subcommand is None:
        say(context.get_help())
        raise typer.Exit(2)


# -- commands that post a job ------------------------------------------------------------------------------------------


@app.command()
def pull(
    model: Name,
    *,
    wait: Wait = True,
    way: Annotated[
        str, typer.Option(metavar="|".join(WAYS), help="How: our own puller, or an Ollama server's")
    ] = "auto",
    rate_limit: Annotated[str | None, typer.Option(metavar="SIZE", help="At most so much a second, like 20MB")] = None,
    attempts: Attempts = None,
    json: Json = False,
) -> None:
    """Bring a model here, through the queue; a pull of it that is under way is shared."""
    name = ModelName.parse(model)
    if way not in WAYS:
        raise BadRequest(f"there is no way to pull called {way!r}", hint=f"ways are {', '.join(WAYS)}")
    limit = parse_bytes(rate_limit, "--rate-limit") if rate_limit is not None else None
    at = here()
    if limit is None and (stack := at.home.read_stack()) is not None:
        limit = stack.rate_limit
    request = {"model": model, "way": way, "rate_limit": limit}
    see_through(at, post(at, "pull", str(name.folded()), request, attempts), wait, json)


@app.command()
def verify(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="All models when left out")] = None,
    wait: Wait = True,
    attempts: Attempts = None,
    json: Json = False,
) -> None:
    """Hash every byte of a model, or of all, and fetch again what is damaged."""
    subject = str(ModelName.parse(model).folded()) if model is not None else "*"
    at = here()
    see_through(at, post(at, "verify", subject, {"model": model}, attempts), wait, json)


@app.command()
def warm(
    model: Name,
    tier: Annotated[str | None, typer.Option(metavar="NAME", help="Where; by the model's size when left out")] = None,
    wait: Wait = True,
    attempts: Attempts = None,
    json: Json = False,
) -> None:
    """Load a model and ask it for a token, so that the next question is answered at once."""
    name = ModelName.parse(model)
    at = here()
    see_through(at, post(at, "warm", str(name.folded()), {"model": model, "tier": tier}, attempts), wait, json)


@app.command()
def delete(model: Name, wait: Wait = True, attempts: Attempts = None, json: Json = False) -> None:
    """Remove a model and the blobs that no other model needs."""
    name = ModelName.parse(model)
    at = here()
    see_through(at, post(at, "delete", str(name.folded()), {"model": model}, attempts), wait, json)


def post(at: Here, kind: str, subject: str, request: Mapping[str, Any], attempts: int | None) -> Posted:
    posted = at.ledger.post(kind, subject, request, by=who(), attempts=attempts)
    first = posted.job.request
    unheard = [key for key in ("way", "rate_limit", "tier") if request.get(key) not in {None, "auto", first.get(key)}]
    if posted.attached and unheard:
        say(
            f"note: it goes on as it was first asked for; --{', --'.join(unheard).replace('_', '-')} changes nothing now"
        )
    return posted


def see_through(at: Here, posted: Posted, wait: bool, json: bool) -> None:
    """Follow the job that was posted, or say how to."""
    job = posted.job
    if posted.attached:
        say(f"following the {job.kind} of {job.subject} that is already under way, job {job.id}")
    else:
        say(f"posted job {job.id}: {job.kind} {job.subject}")
    if wait:
        conclude(at, follow_to_end(at, job.id), json)
    if json:
        put_json(job.as_json())
    else:
        put(job.id)
    if not at.is_worked():
        say("nothing is working the queue; the job waits until `up` runs")
        say("hint: start it: `ollama-modal up`")


def follow_to_end(at: Here, id: str) -> Job:
    try:
        return follow(at.ledger, id, clock=at.clock, is_worked=at.is_worked)
    except KeyboardInterrupt:
        say()
        say(f"job {id} goes on without you")
        say(f"hint: follow it again: `ollama-modal job {id} --follow`; or end it: `ollama-modal cancel {id}`")
        raise typer.Exit(130) from None


def conclude(at: Here, job: Job, json: bool) -> NoReturn:
    """Say how the job ended, and exit accordingly."""
    if json:
        put_json(job.as_json())
    match job.state:
        case State.SUCCEEDED:
            if not json:
                put(f"{job.kind} done: {result(job)}")
            raise typer.Exit(0)
        case State.CANCELLED:
            say(f"cancelled: {job.kind} of {job.subject}, job {job.id}")
        case _:
            last = job.attempts[-1]
            say(f"error: the {job.kind} of {job.subject} failed: {trouble(last)}")
            if last.hint:
                say(f"hint: {plain(last.hint)}")
            say(f"hint: {plain(remedy(job))}")
            say(f"hint: the whole story: `ollama-modal job {job.id}`; the log: {at.home.logs / 'up.log'}")
    raise typer.Exit(1)


# -- commands about jobs -----------------------------------------------------------------------------------------------


@app.command("jobs")
def list_jobs(
    state: Annotated[str | None, typer.Option(metavar="STATE", help=f"Only these: {', '.join(State)}")] = None,
    kind: Annotated[str | None, typer.Option(metavar="KIND", help=f"Only these: {', '.join(KINDS)}")] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=0, help="How many of the newest; 0 for all")] = LISTED,
    json: Json = False,
) -> None:
    """List the jobs, newest first."""
    if state is not None and state not in set(State):
        raise BadRequest(f"there is no state {state!r}", hint=f"states are {', '.join(State)}")
    if kind is not None and kind not in KINDS:
        raise BadRequest(f"there is no kind of job {kind!r}", hint=f"kinds are {', '.join(KINDS)}")
    at = here()
    gc.disable()  # looking through a hundred thousand live objects for cycles takes longer than reading the ledger
    jobs, count = chosen(at.ledger, state, kind, limit or None)
    if json:
        put_json([job.as_json() for job in jobs])
    elif jobs:
        put_table(
            ("JOB", "KIND", "MODEL", "STATE", "DONE", "TRIES", "POSTED", "REMARK"), [row(job, at) for job in jobs]
        )
    else:
        say("no jobs" if state is None and kind is None else "no such jobs")
    if count > len(jobs):
        say(f"{count - len(jobs):,} more; --limit 0 lists all")


def chosen(ledger: Ledger, state: str | None, kind: str | None, limit: int | None) -> tuple[list[Job], int]:
    """The newest jobs of that state and kind, and how many there are in all."""
    if state is None and kind is None:
        newest = ledger.jobs(limit)
        return newest, len(newest) if limit is None else len(ledger.ids())
    found = [job for job in ledger.jobs() if state in {None, job.state} and kind in {None, job.kind}]
    return found[:limit], len(found)


def row(job: Job, at: Here) -> tuple[object, ...]:
    last = job.attempts[-1] if job.attempts else None
    remark = trouble(last) if last is not None and last.failure_class else ""
    tries = f"{len(job.attempts)}/{job.attempts_allowed}"
    short = remark if len(remark) <= 60 else f"{remark[:59]}…"
    return (job.id, job.kind, job.subject, job.state, share(job), tries, moment(job.posted_at, at.now), short)


@app.command("job")
def tell_job(
    id: Id,
    follow: Annotated[bool, typer.Option("--follow", help="Follow it to its end; exit as the job does")] = False,
    json: Json = False,
) -> None:
    """Tell a job's story: what was asked, what happened, and what to do."""
    at = here()
    job = named(at.ledger, id)
    if follow and not job.has_ended:
        job = follow_to_end(at, job.id)
    if json:
        put_json(job.as_json())
    else:
        for line in story(job, at.now):
            put(line)
    if follow and job.state is not State.SUCCEEDED:
        raise typer.Exit(1)


@app.command()
def cancel(id: Id, json: Json = False) -> None:
    """Ask a job to stop. What was fetched for it is thrown away."""
    at = here()
    found = named(at.ledger, id)
    job = at.ledger.cancel(found.id, by=who())
    if json:
        put_json(job.as_json())
    if found.has_ended and found.state is not State.CANCELLED:
        say(f"error: job {job.id} has already {job.state}; there is nothing left to cancel")
        raise typer.Exit(1)
    if job.has_ended:
        say(f"job {job.id} is cancelled")
    else:
        say(f"job {job.id} is asked to stop; its worker notices within seconds")


@app.command()
def retry(id: Id, wait: Wait = True, json: Json = False) -> None:
    """Post an ended job again, exactly as it was posted."""
    at = here()
    see_through(at, at.ledger.retry(named(at.ledger, id).id, by=who()), wait, json)


def named(ledger: Ledger, text: str) -> Job:
    """The job of this id, or the only one whose id begins so.

    Raises:
        NotFound: there is none.
        BadRequest: there are several, or nothing was named.

    """
    if not text:
        raise BadRequest("the job's id is empty", hint="`ollama-modal jobs` lists them")
    try:
        return ledger.get(text)
    except NotFound:
        found = sorted(id for id in ledger.ids() if id.startswith(text))
        if not found:
            raise
    if len(found) > 1:
        shown = ", ".join(found[:4]) + (f" and {len(found) - 4} more" if len(found) > 4 else "")
        raise BadRequest(f"{len(found)} jobs begin with {text!r}", hint=f"say more of it: {shown}")
    return ledger.get(found[0])


# -- commands about what is there --------------------------------------------------------------------------------------


@app.command()
def models(json: Json = False) -> None:
    """List the models that are whole, and complain about those that are not."""
    from jobs.inventory import listed  # noqa: PLC0415 - brings httpx, which takes long to import

    at = here()
    found = listed(at.home, at.clock)
    if json:
        put_json([each.as_json() for each in found.models])
    elif found.models:
        head = ("NAME", "SIZE", "DIGEST", "MODIFIED", "FAMILY", "PARAMETERS", "QUANTISATION")
        put_table(head, [each.row(at.now) for each in found.models])
    else:
        say(f"no models in {found.where}")
    for line in found.complaints:
        say(line)


@app.command()
def status(json: Json = False) -> None:
    """Tell what runs here: `up`, its servers and what they have loaded, the models, the queue."""
    from jobs.inventory import surveyed  # noqa: PLC0415 - brings httpx, which takes long to import

    at = here()
    counts = Counter(job.state for job in at.ledger.jobs())
    found = surveyed(at.home, at.clock, {str(state): counts[state] for state in State})
    if json:
        put_json(found.as_json())
    else:
        for line in found.lines(at.now):
            put(line)


# -- the entry ---------------------------------------------------------------------------------------------------------


def run(application: typer.Typer = app) -> NoReturn:
    """Run the command line on `sys.argv`, and exit. The one place where what went wrong becomes words and a code."""
    settle_streams()
    logger.remove()
    logger.add(lambda line: say(str(line).rstrip()), level="WARNING", format="warning: {message}")
    sys.exit(_code(application))


def _code(application: typer.Typer) -> int:
    try:
        outcome = typer.main.get_command(application).main(prog_name="ollama-modal", standalone_mode=False)
    except TyperException as error:
        say(f"error: {plain(error.format_message()).rstrip('.')}")
        say("hint: `ollama-modal --help` lists commands, `ollama-modal COMMAND --help` their options")
        return error.exit_code
    except (Refused, NotFound) as error:
        complain(error)
        return 2
    except Trouble as error:
        complain(error)
        return 1
    except sqlite3.Error as error:
        say(f"error: the ledger cannot be read or written: {plain(error)}")
        say("hint: is the disk full, or ledger.sqlite damaged? `ollama-modal status` names the home")
        return 1
    return outcome if isinstance(outcome, int) else 0
