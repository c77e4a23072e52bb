"""A job in words, for somebody who is tired: what was asked, what happened, why, and what to do now. Pure.

`--json` tells the same to programs; nothing here is meant to be parsed.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from jobs.core.progress import Reading
from jobs.core.sanitize import plain
from jobs.core.units import counted, human_bytes, human_span, local_time
from jobs.ledger.job import Attempt, Job, JobState
from jobs.ledger.kinds import KINDS, Kinds

AGAIN = "then try exactly the same again: `ollama-modal retry {id}`"
"""How a remedy ends after which the same may go well."""

REMEDIES: Mapping[str, str] = {
    "not_found": "check the spelling of {subject!r} and whether its publisher still has it, and ask for the right name",
    "auth": "sign the Ollama server in (`ollama signin`) or name a model that is public, " + AGAIN,
    "disk": "make room (`ollama-modal models` shows sizes, `ollama-modal delete MODEL` frees one) or raise the"
    " quota, " + AGAIN,
    "network": "see whether the worker's machine reaches the other side; what was fetched is kept, " + AGAIN,
    "corrupt": "the bytes were wrong twice: something on the way here damages them, or the registry's own copy"
    " is bad; wait a while, " + AGAIN,
    "killed": "its worker died or was ended each time; see why in the workers' log (memory, a reboot, a kill), "
    + AGAIN,
    "refused": "trying again changes nothing: change what the message names, and ask anew",
    "bug": "this is our mistake: please report it with what `ollama-modal job {id} --json` prints, " + AGAIN,
}
"""What to do about a failed job, by the class of its failure."""


_PULL_FIRST = "pull it first: `ollama-modal pull {subject}`, " + AGAIN

REMEDIES_OF_KINDS: Mapping[tuple[str, str], str] = {
    ("delete", "not_found"): "nothing: it is not here, as was asked for; `ollama-modal dismiss {id}` ends it",
    ("delete", "disk"): "see that the workers may write the models directory and that its disk is sound, " + AGAIN,
    ("delete", "network"): "see whether the server that keeps the models answers (`ollama-modal status`), " + AGAIN,
    ("prune", "disk"): "see that the workers may write the models directory and that its disk is sound, " + AGAIN,
    ("rollback", "not_found"): "nothing can come back, for the trash holds no earlier version;"
    " `ollama-modal pull {subject}` brings the newest",
    ("rollback", "corrupt"): "the earlier version is damaged and stays in the trash; `ollama-modal pull {subject}`"
    " brings the newest",
    ("verify", "not_found"): _PULL_FIRST,
    ("verify", "corrupt"): "what is damaged is nowhere to be had: `ollama-modal pull {subject}` brings the newest",
    ("warm", "not_found"): _PULL_FIRST,
    ("warm", "network"): "see whether its server answers (`ollama-modal status`), " + AGAIN,
    ("warm", "corrupt"): "hash its files, which fetches anew what is damaged: `ollama-modal verify {subject}`, "
    + AGAIN,
}
"""The same where a kind of job needs another remedy than most, by kind and class."""


def remedy(job: Job) -> str | None:
    """What to do now, when the job failed."""
    if job.state is not JobState.FAILED or not job.attempts:
        return None
    template = REMEDIES[job.attempts[-1].failure_class or "bug"]
    return remedy_of_kind(job) or template.format(id=job.id, subject=job.subject)


def remedy_of_kind(job: Job) -> str | None:
    """What to do about this failure of a job of this kind; None where it is what to do about most kinds."""
    failure_class = job.attempts[-1].failure_class if job.attempts else None
    template = REMEDIES_OF_KINDS.get((job.kind, failure_class or "bug"))
    return template and template.format(id=job.id, subject=job.subject)


def share(job: Job) -> str:
    """How far a job has come, in a few characters; nothing when that is not known."""
    if job.state is JobState.SUCCEEDED:
        return "100 %"
    reading = job.progress
    return f"{min(100, 100 * reading.completed // reading.total)} %" if reading.total else ""


def trouble(attempt: Attempt) -> str:
    """Why an attempt did not succeed: its class and the message."""
    if attempt.failure_class is None:
        return plain(attempt.message or "")
    return f"{attempt.failure_class}: {plain(attempt.message or 'no message')}"


def headline(job: Job) -> list[str]:
    """As columns: what it is, its state, and while it goes on: what is being done, how far, rate and time left."""
    words = [f"{job.kind} {job.subject}", str(job.state)]
    if not job.has_ended:
        words += [job.progress.status, share(job), *amounts(job.progress)]
    return [plain(word) for word in words if word]


def amounts(reading: Reading) -> list[str]:
    """Bytes, rate and time left, as far as they are known."""
    if not reading.total:
        return []
    words = [f"{human_bytes(reading.completed)} of {human_bytes(reading.total)}"]
    if reading.bytes_per_second and reading.completed < reading.total:
        left = (reading.total - reading.completed) / reading.bytes_per_second
        words += [f"{human_bytes(reading.bytes_per_second)}/s", f"{human_span(left)} left"]
    return words


def story(job: Job, now: datetime, kinds: Kinds = KINDS) -> list[str]:
    """The whole story, line by line."""
    posted = f"{local_time(job.posted_at, now)} ({human_span(now - job.posted_at)} ago)"
    lines = [
        f"{job.kind} of {plain(job.subject)}: {_state(job, now)}",
        f"  job      {job.id}",
        f"  posted   {posted} by {plain(job.posted_by)}",
    ]
    if request := _request(job, kinds):
        lines.append(f"  asked    {request}")
    if progress := _progress(job):
        lines.append(f"  progress {progress}")
    if job.attempts:
        lines.append(f"  attempts {len(job.attempts)} of {job.attempts_allowed} allowed")
    for attempt in job.attempts:
        lines += _attempt(attempt, job, now)
    if job.result is not None:
        lines.append(f"  result   {result_text(job)}")
    if what := remedy(job):
        lines.append(f"  to do    {what}")
    return lines


def result_text(job: Job) -> str:
    """What came out of a job, in words."""
    result = job.result or {}
    try:
        return plain(_RESULTS[job.kind](job, result))
    except (KeyError, TypeError, ValueError):  # written by another version of this code
        return plain(", ".join(f"{key} {value}" for key, value in result.items()))


def _state(job: Job, now: datetime) -> str:
    match job.state:
        case JobState.QUEUED:
            return "queued, no worker has taken it yet"
        case JobState.RUNNING:
            stopping = ", and asked to stop" if job.cancel_asked else ""
            last = job.attempts[-1]
            silent = now - last.last_sign
            quiet = f", silent for {human_span(silent)}" if silent > timedelta(seconds=10) else ""
            return f"running for {human_span(now - last.started_at)}{quiet}{stopping}"
        case JobState.WAITING:
            return f"waiting, {_next(job, now)}"
        case _:
            took = human_span((job.ended_at or now) - job.posted_at)
            return f"{job.state}, {took} after it was posted{', and dismissed' if job.dismissed else ''}"


def _next(job: Job, now: datetime) -> str:
    due = job.not_before
    if due is None or due <= now:
        return "the next try is due now"
    return f"the next try in {human_span(due - now)}"


def _request(job: Job, kinds: Kinds) -> str:
    """What was asked for beside the kind and the subject. Other versions of this code may have stored other keys."""
    known = {each.name: each for each in kinds[job.kind].parameters} if job.kind in kinds else {}
    words = []
    for name, value in job.request.items():
        parameter = known.get(name)
        if value is None or (parameter is not None and value == parameter.default):
            continue
        words.append(f"{name.replace('_', ' ')} {parameter.show(value) if parameter else repr(value)}")
    return ", ".join(words)


def _progress(job: Job) -> str:
    reading = job.progress
    if job.has_ended and job.state is JobState.SUCCEEDED:
        return ""
    words = [plain(reading.status)] if reading.status else []
    if reading.total:
        words.append(f"{human_bytes(reading.completed)} of {human_bytes(reading.total)} ({share(job)})")
    if job.state is JobState.RUNNING and reading.bytes_per_second:
        words.append(f"{human_bytes(reading.bytes_per_second)}/s")
    return ", ".join(words)


def _attempt(attempt: Attempt, job: Job, now: datetime) -> Iterator[str]:
    outcome = attempt.outcome or "goes on"
    took = human_span((attempt.ended_at or now) - attempt.started_at)
    why = f": {trouble(attempt)}" if attempt.failure_class or attempt.message else ""
    yield f"    {attempt.n}  {local_time(attempt.started_at, now)}  {took}  on {plain(attempt.worker)}  {outcome}{why}"
    if attempt.hint:
        yield f"       hint: {plain(attempt.hint)}"
    if attempt is job.attempts[-1] and job.state is JobState.WAITING:
        yield f"       {_next(job, now)}"


def _speed(job: Job, count: int, seconds: float | None = None) -> str:
    """Of what took so long, or else the last attempt."""
    if seconds is None:
        last = job.attempts[-1]
        seconds = ((last.ended_at or last.started_at) - last.started_at).total_seconds()
    return f" at {human_bytes(count / seconds)}/s" if count and seconds > 0 else ""


def _pulled(job: Job, result: Mapping[str, Any]) -> str:
    what = f"{result['model']}, {human_bytes(result['size'])}, digest {str(result['digest'])[:12]}"
    if result["way"] != "registry":
        return f"{what}: pulled by the server of tier {result['tier']}, because {result['why']}"
    fetched, resumed, reused = result["fetched_bytes"], result.get("resumed_bytes", 0), result["reused_bytes"]
    if not fetched and not resumed:
        return f"{what}: all of it was here already and sound"
    kept = f", {human_bytes(resumed)} had come in an attempt before" if resumed else ""
    kept += f", {human_bytes(reused)} was here already" if reused else ""
    speed = _speed(job, fetched, result.get("fetch_seconds"))
    return f"{what}: {human_bytes(fetched)} straight from the registry{speed}{kept}"


def _verified(job: Job, result: Mapping[str, Any]) -> str:
    what = (
        f"{counted(len(result['models']), 'model')}, {counted(result['blobs'], 'blob')},"
        f" {human_bytes(result['bytes'])}{_speed(job, result['bytes'])}"
    )
    if torn := result.get("torn"):
        what += f" (the manifest of {', '.join(torn)} is torn: pull it again)"
    if not result["mended"]:
        return f"{what}: every byte is what it should be"
    which = ", ".join(f"{each['digest'][:19]}… was {each['damage']}" for each in result["mended"])
    return f"{what}: {counted(len(result['mended']), 'damaged blob')} fetched again, and sound now: {which}"


def _deleted(_: Job, result: Mapping[str, Any]) -> str:
    if result["way"] != "directory":
        return f"{result['model']} was deleted by the server"
    blobs = f"{counted(result['blobs'], 'blob')} went with it, {human_bytes(result['freed_bytes'])}"
    what = f"{result['model']} is gone; {blobs}"
    return f"{what}; {result['note']}" if result.get("note") else what


def _pruned(_: Job, result: Mapping[str, Any]) -> str:
    words = []
    if result["delete"]:
        words.append(f"{human_bytes(result['freed_bytes'])} deleted for good")
    if result["throw"]:
        names = [each["name"] for each in result["throw"] if each["what"] == "model"]
        which = f", with {', '.join(names)}" if names else ""
        words.append(f"{human_bytes(result['thrown_bytes'])} moved to the trash{which}")
    return "; ".join([", ".join(words) or "nothing to prune", *result["notes"]])


def _rolled_back(_: Job, result: Mapping[str, Any]) -> str:
    left = f" in place of {str(result['left'])[:12]}, which is in the trash now" if result.get("left") else ""
    return f"{result['model']} is digest {str(result['digest'])[:12]} again{left}"


def _warmed(_: Job, result: Mapping[str, Any]) -> str:
    where = "on the GPU" if result["on_gpu"] else "not wholly on a GPU"
    rate = f", {result['tokens_per_second']:.0f} tokens/s" if result.get("tokens_per_second") else ""
    does = {"an embedding": ", and embeds", "a score": ", and ranks"}.get(result.get("proved_by") or "", "")
    seconds = f"{result['load_seconds']:.1f} s"
    return f"{result['model']} is loaded on tier {result['tier']}, {where}, after {seconds}{rate}{does}"


_RESULTS: Mapping[str, Callable[[Job, Mapping[str, Any]], str]] = {
    "pull": _pulled,
    "verify": _verified,
    "delete": _deleted,
    "prune": _pruned,
    "rollback": _rolled_back,
    "warm": _warmed,
}
