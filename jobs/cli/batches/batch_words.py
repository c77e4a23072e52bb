"""A batch in words: how it stands, what it took, what it will take. Pure: of the document that a ledger or a gateway
tells (`jobs.batches.batch_document`)."""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from jobs.batches.records import OVER, Estimate
from jobs.cli.terminal.table import GiveWay
from jobs.core.clock import parse_moment
from jobs.core.sanitize import plain
from jobs.core.units import counted, human_span, local_time

Document = Mapping[str, Any]

HEAD = ("BATCH", "STATE", "LINES", "DONE", "FAILED", "TOKENS", "COST", "POSTED", "REMARK")

GIVE_WAY = (
    GiveWay("REMARK", 30),
    GiveWay("POSTED", lambda moment: moment[5:16]),
    GiveWay("REMARK", "left out"),
    GiveWay("TOKENS", "left out"),
    GiveWay("POSTED", lambda moment: moment[:5]),
    GiveWay("COST", "left out"),
    GiveWay("POSTED", "left out"),
    GiveWay("LINES", "left out"),
)
"""An id is typed again; the rest is a `batch ID` away."""

SOON = timedelta(seconds=5)
"""Nothing is told of how fast a batch is that has only begun."""


def has_ended(batch: Document) -> bool:
    return batch["status"] in OVER


def state_of(batch: Document) -> str:
    """Its status, as people read it."""
    return str(plain(batch["status"])).replace("_", " ")


def ended_lines(batch: Document) -> int:
    return int(batch["lines"]["completed"]) + int(batch["lines"]["failed"])


def tokens_of(use: Document) -> int:
    return int(use.get("prompt_tokens") or 0) + int(use.get("output_tokens") or 0)


def dollars(amount: float | None) -> str:
    """`$0.42`; a small one with as many places as tell something; nothing where nothing is paid."""
    if amount is None:
        return ""
    return (
        f"${amount:,.2f}" if amount >= 0.995 or not amount else f"${amount:.2g}" if amount < 0.01 else f"${amount:.2f}"
    )


def count(number: float) -> str:
    """`950`, `12,400`, `1.2M`."""
    return f"{number / 1e6:.1f}M" if number >= 999_950 else f"{number:,.0f}"


def row(batch: Document, now: datetime) -> tuple[object, ...]:
    """As columns of `HEAD`."""
    lines = batch["lines"]
    total = int(lines["total"])
    return (
        batch["id"],
        state_of(batch),
        f"{total:,}" if total else "",
        f"{100 * ended_lines(batch) // total} %" if total else "",
        f"{lines['failed']:,}" if lines["failed"] else "",
        count(tokens_of(batch["use"])) if tokens_of(batch["use"]) else "",
        dollars(batch["use"].get("dollars")),
        local_time(parse_moment(batch["created_at"]), now),
        remark(batch),
    )


def remark(batch: Document) -> str:
    """Why it waits, what will not hold, or why it ended as it did."""
    if batch["errors"]:
        return plain(batch["errors"][0]["message"])
    return plain(batch["note"])


def progress(batch: Document, now: datetime) -> list[str]:
    """Lines, tokens, tokens a second, dollars, time left, as far as they are known."""
    total, ended, use = int(batch["lines"]["total"]), ended_lines(batch), batch["use"]
    words = [f"{ended:,} of {counted(total, 'line')}"] if total else []
    if batch["lines"]["failed"]:
        words.append(f"{batch['lines']['failed']:,} failed")
    tokens = tokens_of(use)
    if tokens:
        words.append(f"{count(tokens)} tokens")
    spent = _working(batch, now)
    if spent is not None and spent > SOON and ended:
        words.append(f"{count(tokens / spent.total_seconds())} tokens/s")
    if use.get("dollars") is not None:
        words.append(dollars(use["dollars"]))
    if spent is not None and spent > SOON and 0 < ended < total and not has_ended(batch):
        words.append(f"{human_span(spent * ((total - ended) / ended))} left")
    return words


def _working(batch: Document, now: datetime) -> timedelta | None:
    """For how long its lines have been sent."""
    if not batch["in_progress_at"]:
        return None
    end = batch["finalizing_at"] or batch["ended_at"]
    return (parse_moment(end) if end else now) - parse_moment(batch["in_progress_at"])


def headline(batch: Document, now: datetime) -> list[str]:
    """As columns, for a line of its own."""
    total = int(batch["lines"]["total"])
    share = f"{100 * ended_lines(batch) // total} %" if total else ""
    words = [f"batch {batch['id']}", state_of(batch), share, *progress(batch, now)]
    return [plain(word) for word in words if word]


def story(batch: Document, now: datetime) -> Iterator[str]:
    """How it stands, line by line."""
    yield f"batch {plain(batch['id'])}: {_state(batch, now)}"
    posted = f"{_at(batch['created_at'], now)} ({_ago(batch['created_at'], now)} ago)"
    by = f" by {plain(batch['posted_by'] or batch['owner'])}" if batch["posted_by"] or batch["owner"] else ""
    yield f"  posted   {posted}{by}"
    of = f" of {plain(batch['model'])}" if batch["model"] else ""
    when = f"start {plain(batch['start'])}, by {_at(batch['expires_at'], now)}"
    yield f"  asks     {plain(batch['endpoint'])}{of}, {when}"
    if batch["max_dollars"] is not None:
        yield f"  limit    {dollars(batch['max_dollars'])}"
    if words := progress(batch, now):
        yield f"  so far   {', '.join(words)}"
    if batch["estimate"]:
        yield from (f"  {line}" for line in estimate_lines(batch["estimate"], now))
    if batch["note"]:
        yield f"  note     {plain(batch['note'])}"
    for error in batch["errors"]:
        yield f"  error    {error_words(error)}"
    if batch["output_file_id"] or batch["error_file_id"]:
        yield f"  results  `ollama-modal batch {plain(batch['id'])} --results --out FILE`"


def _state(batch: Document, now: datetime) -> str:
    state = state_of(batch)
    if has_ended(batch):
        after = parse_moment(batch["ended_at"]) - parse_moment(batch["created_at"]) if batch["ended_at"] else None
        return f"{state} after {human_span(after)}" if after is not None else state
    if batch["starts_at"]:
        return f"{state}, begins by {_at(batch['starts_at'], now)}"
    working = _working(batch, now)
    return f"{state}, its lines are sent for {human_span(working)}" if working is not None else state


def error_words(error: Document) -> str:
    """An error of a line, or of the file, in one line."""
    line = f"line {error['line']:,}: " if error.get("line") is not None else ""
    param = f" ({plain(error['param'])})" if error.get("param") else ""
    return f"{line}{plain(error['message'])}{param}"


def estimate_lines(told: Document, now: datetime) -> Iterator[str]:
    """What it takes: tokens, GPU seconds, dollars, when it is done, and what that rests on."""
    estimate = Estimate.from_json(told)
    use = estimate.use
    tokens = f"{count(use.prompt_tokens)} tokens read, {count(use.output_tokens)} made"
    yield f"takes    {tokens}; {human_span(use.gpu_seconds)} of GPU"
    yield f"costs    {estimate.price}"
    done_at = local_time(estimate.done_at, now)
    yield f"done by  {done_at}, {human_span(estimate.seconds)} from the first line to the last"
    yield f"as told  {plain(estimate.reason) or estimate.basis}"


def _at(moment: str, now: datetime) -> str:
    return local_time(parse_moment(moment), now)


def _ago(moment: str, now: datetime) -> str:
    return human_span(now - parse_moment(moment))
