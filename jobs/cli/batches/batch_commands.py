"""What a person does with batches: post one, follow it, list them, tell of one, fetch its results.

The same words, JSON and exit codes wherever the batches are: on this machine, or at a gateway. Exit codes: 0 done and
each line has a result, 1 it failed or some lines did, 2 the call was wrong, 130 interrupted.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from jobs.batches.estimate import too_dear
from jobs.batches.lines.line_check import Checked, LineRules, check
from jobs.batches.records import BatchStart, Estimate, LineError
from jobs.cli.batches import batch_words as words
from jobs.cli.batches.batch_source import BatchSource
from jobs.cli.batches.batch_words import Document
from jobs.cli.batches.follow_batch import POLL_EVERY, follow_batch, shown
from jobs.cli.batches.merged_results import BatchLines, csv_rows, results
from jobs.cli.batches.results_file import ResultsFile
from jobs.cli.interrupt import INTERRUPTED, Interruptible
from jobs.cli.output import put_bytes, put_json, put_table, say, show
from jobs.core.clock import Clock
from jobs.core.errors import BadRequest, Bug, NoRoom, NotFound, Refused, Trouble
from jobs.core.sanitize import plain
from jobs.core.units import counted, human_bytes, human_span

LISTED = 20
"""Batches that fit on a screen."""


class Batches(Protocol):
    """Batches of this machine, or of a gateway; as documents, as `jobs.batches.batch_document` makes them."""

    def missing(self, model: str) -> Trouble | None:
        """Why a model cannot answer; None where it is here, or nobody can tell."""

    def post(
        self,
        pieces: Iterable[bytes],
        *,
        filename: str,
        endpoint: str,
        expires_at: datetime | None,
        start: BatchStart | None,
        max_dollars: float | None,
    ) -> Document: ...
    def get(self, id: str) -> Document: ...
    def all(self, limit: int | None) -> tuple[Sequence[Document], bool]:
        """The newest, and whether there are more."""

    def content(self, file_id: str) -> Iterator[bytes]:
        """The lines of a file."""


class Estimating(Protocol):
    """Tells what lines will take; None where nobody can tell."""

    def __call__(
        self,
        checked: Checked,
        *,
        endpoint: str,
        start: BatchStart | None,
        expires_at: datetime | None,
        max_dollars: float | None,
    ) -> Document | None: ...


@dataclass(frozen=True)
class Wanted:
    """How a batch is posted by whoever types.

    Args:
        expires_at: the deadline; None for a day from now.
        start: when it may begin; None where that is left to the fleet.
        max_dollars: what it may take.
        out: where results go once it is done.
        dry_run: tell what it takes, and post nothing.
        wait: follow it.
        pull: bring models that are not here, without being asked.
        json: for a program.

    """

    expires_at: datetime | None = None
    start: BatchStart | None = None
    max_dollars: float | None = None
    out: ResultsFile | None = None
    dry_run: bool = False
    wait: bool = True
    pull: bool = False
    json: bool = False


@dataclass(frozen=True)
class BatchCommands:
    """The commands about batches, each of which returns the code to exit with.

    Args:
        batches: where they are.
        estimate: what one will take.
        clock: the reader's.
        pull: brings a model here and follows that; the code of the command.
        confirmed: asks the person at the terminal; None where nobody is there.
        is_worked: whether anybody works the queue.
        idle: what is said when nobody does.
        poll_every: how often a batch is looked at that is followed.
        worded: turns the commands in a text into those of this place.

    """

    batches: Batches
    estimate: Estimating
    clock: Clock
    pull: Callable[[str], int]
    confirmed: Callable[[str], bool | None]
    is_worked: Callable[[], bool]
    idle: Sequence[str]
    poll_every: timedelta = POLL_EVERY
    worded: Callable[[str], str] = str

    @property
    def now(self) -> datetime:
        """The time, in the reader's zone."""
        return self.clock.now().astimezone()

    # -- posting -------------------------------------------------------------------------------------------------------

    def post(self, source: BatchSource, wanted: Wanted) -> int:
        """Check all lines, tell what they take, post them, and follow that to its end."""
        if wanted.out is not None:
            if wanted.out.is_csv and not source.has_rows:
                raise BadRequest("results of lines are no CSV", hint="name a file that ends in .jsonl by --out")
            wanted.out.need()
        checked = self._checked(source)
        say(f"{counted(checked.lines, 'line')}, {human_bytes(checked.bytes)}, to {_names(checked)}")
        missing = self._missing(checked)
        if missing and not wanted.dry_run:
            if code := self._pulled(missing, wanted):
                say("nothing was posted")
                return code
            missing = {}
        told = None if missing else self._estimated(checked, source, wanted)
        if wanted.dry_run:
            self._tell_missing(missing)
            if wanted.json:
                put_json(_plan(checked, told, missing, source))
            say("nothing is posted")
            return 0
        with closing(shown(source.pieces(), "posting", source.size)) as pieces:
            batch = self.batches.post(
                pieces,
                filename=source.name,
                endpoint=source.endpoint,
                expires_at=wanted.expires_at,
                start=wanted.start,
                max_dollars=wanted.max_dollars,
            )
        say(f"posted {batch['id']}")
        if wanted.wait:
            return self.see_through(batch["id"], wanted.out, json=wanted.json)
        show(batch, [batch["id"]], json=wanted.json)
        if not self.is_worked():
            for line in self.idle:
                say(line)
        return 0

    def _checked(self, source: BatchSource) -> Checked:
        """What the lines ask for, once each was read.

        Raises:
            BadRequest: some cannot run; each is named by its line of the file.

        """
        with closing(shown(source.pieces(), "reading", source.size)) as pieces:
            checked = check(pieces, LineRules(source.endpoint))
        if checked.is_good:
            return checked
        errors = [_placed(each, source) for each in checked.errors]
        if checked.error_count == 1:
            raise BadRequest(words.error_words(vars(errors[0])), hint="mend it, and post the file again")
        trouble = BadRequest(
            f"{checked.error_count:,} of {counted(checked.lines, 'line')} cannot run", hint="mend them, and post again"
        )
        more = [f"and {checked.error_count - len(errors):,} more"] if checked.error_count > len(errors) else []
        trouble.problems = (*(words.error_words(vars(each)) for each in errors), *more)
        raise trouble

    def _missing(self, checked: Checked) -> dict[str, Trouble]:
        asked = {each.model: self.batches.missing(each.model) for each in checked.models}
        return {model: trouble for model, trouble in asked.items() if trouble is not None}

    def _estimated(self, checked: Checked, source: BatchSource, wanted: Wanted) -> Document | None:
        """What it takes, once that is told.

        Raises:
            Refused: it is more than it may cost.

        """
        told = self.estimate(
            checked,
            endpoint=source.endpoint,
            start=wanted.start,
            expires_at=wanted.expires_at,
            max_dollars=wanted.max_dollars,
        )
        if told is None:
            say("what it takes cannot be told now")
            return None
        estimate = Estimate.from_json(told)
        for line in words.estimate_lines(told, self.now):
            say(line)
        if told.get("note"):
            say(f"note: {plain(told['note'])}")
        elif wanted.expires_at is not None and estimate.done_at > wanted.expires_at:
            late = human_span(estimate.done_at - wanted.expires_at)
            say(f"warning: by then it will not be done, as far as is known: it is {late} late")
        if (refusal := too_dear(wanted.max_dollars, estimate)) is not None:
            raise Refused(refusal.message)
        return told

    def _tell_missing(self, missing: Mapping[str, Trouble]) -> None:
        for model, trouble in missing.items():
            say(f"warning: {plain(model)} is not here: {plain(trouble)}")
            say(f"hint: {self.worded(f'`ollama-modal pull {plain(model)}`')}, or post with --pull")

    def _pulled(self, missing: Mapping[str, Trouble], wanted: Wanted) -> int:
        """Bring the models that are not here; 0 when all of them have come.

        Raises:
            NotFound: nobody asked for them to come, and nobody is there to be asked.

        """
        names = ", ".join(map(plain, missing))
        if not wanted.pull:
            said = self.confirmed(f"{names} {'is' if len(missing) == 1 else 'are'} not here: pull first?")
            if said is None:
                first, trouble = next(iter(missing.items()))
                near = f"{plain(trouble.hint)}; or " if trouble.hint and "pull" not in trouble.hint else ""
                raise NotFound(
                    f"{names} {'is' if len(missing) == 1 else 'are'} not here",
                    hint=f"{near}post with --pull, or pull before: `ollama-modal pull {plain(first)}`",
                ) from trouble
            if not said:
                return 1
        return next((code for model in missing if (code := self.pull(model))), 0)

    # -- following -----------------------------------------------------------------------------------------------------

    def see_through(self, id: str, out: ResultsFile | None, *, json: bool) -> int:
        """Follow a batch to its end, and write its results."""
        try:
            with Interruptible():
                batch = follow_batch(
                    lambda: self.batches.get(id),
                    clock=self.clock,
                    is_worked=self.is_worked,
                    idle=self.idle,
                    every=self.poll_every,
                )
        except KeyboardInterrupt:
            say()
            say(f"batch {id} goes on without you")
            on = f"follow it again: `ollama-modal batch {id} --follow`; or end it: `ollama-modal cancel {id}`"
            say(f"hint: {self.worded(on)}")
            if out is not None:
                say(f"hint: {self.worded(f'its results, then: `ollama-modal batch {id} --results --out {out.named}`')}")
            return INTERRUPTED
        if json:
            put_json(batch)
        code = self._conclude(batch)
        has_results = batch["output_file_id"] or batch["error_file_id"]
        return max(code, self._written(batch, out)) if out and has_results else code

    def _conclude(self, batch: Document) -> int:
        """Say how it ended; the exit code for it."""
        counts, use, id = batch["lines"], batch["use"], batch["id"]
        took = [f"{words.count(words.tokens_of(use))} tokens", f"{human_span(float(use['gpu_seconds']))} of GPU"]
        took += [words.dollars(use["dollars"])] if use.get("dollars") is not None else []
        if batch["status"] == "completed":
            say(f"batch {id} is done: {counts['completed']:,} of {counted(counts['total'], 'line')}, {', '.join(took)}")
        else:
            say(f"error: batch {id} {words.state_of(batch)}, {counts['completed']:,} of {counts['total']:,} lines done")
        for error in batch["errors"][:20]:
            say(f"  {words.error_words(error)}")
        if counts["failed"]:
            said = f"{counted(counts['failed'], 'line')} failed; why: `ollama-modal batch {id} --results`"
            say(f"warning: {self.worded(said)}")
        return 0 if batch["status"] == "completed" and not counts["failed"] else 1

    # -- one, and all --------------------------------------------------------------------------------------------------

    def show(self, id: str, *, follow: bool, out: ResultsFile | None, json: bool) -> int:
        """Tell how a batch stands, or follow it to its end."""
        if out is not None:
            out.need()
        batch = self.batches.get(id)
        if follow and not words.has_ended(batch):
            return self.see_through(id, out, json=json)
        show(batch, map(self.worded, words.story(batch, self.now)), json=json)
        if out is not None:
            return self._written(batch, out)
        return 1 if follow and batch["status"] != "completed" else 0

    def results(self, id: str, out: ResultsFile | None) -> int:
        """Write its results, to a file or as lines of data."""
        if out is not None:
            out.need()
        batch = self.batches.get(id)
        if out is not None:
            return self._written(batch, out)
        for line in results(self._lines(batch)):
            put_bytes(line)
        return 0

    def _written(self, batch: Document, out: ResultsFile) -> int:
        lines = self._lines(batch)
        try:
            with Interruptible():
                out.write(csv_rows(lines) if out.is_csv else results(lines))
        except KeyboardInterrupt:
            say()
            say(f"{out.named} is not written")
            return INTERRUPTED
        except (Refused, NoRoom, Bug) as trouble:
            trouble.hint = self.worded(f"they are kept: `ollama-modal batch {batch['id']} --results --out FILE`")
            raise
        say(f"its results are in {out.named}")
        return 0

    def _lines(self, batch: Document) -> BatchLines:
        """Its three files.

        Raises:
            Refused: it has none yet.

        """
        if not words.has_ended(batch):
            raise Refused(
                f"batch {batch['id']} is {words.state_of(batch)}: its results are there when it has ended",
                hint=f"follow it: `ollama-modal batch {batch['id']} --follow`",
            )
        if not batch["output_file_id"] and not batch["error_file_id"]:
            raise Refused(f"batch {batch['id']} {words.state_of(batch)} and has no results")

        def content(name: str) -> Iterator[bytes]:
            if batch[name]:
                yield from self.batches.content(batch[name])

        return BatchLines(content("input_file_id"), content("output_file_id"), content("error_file_id"))

    def all(self, limit: int, *, json: bool) -> int:
        """List batches, the newest first."""
        if limit < 0:
            raise BadRequest(f"--limit {limit} makes no sense", hint="at least 1, or 0 for all")
        found, more = self.batches.all(limit or None)
        if json:
            put_json(list(found))
        elif found:
            put_table(words.HEAD, [words.row(each, self.now) for each in found], words.GIVE_WAY)
        else:
            say("no batches")
        if more:
            say("there are more; --limit 0 lists all")
        return 0


def _names(checked: Checked) -> str:
    names = ", ".join(plain(each.model) for each in checked.models[:8])
    return f"{names} and {len(checked.models) - 8} more" if len(checked.models) > 8 else names


def _plan(
    checked: Checked, estimate: Document | None, missing: Mapping[str, Trouble], source: BatchSource
) -> dict[str, Any]:
    """What a dry run tells a program."""
    models = [{"model": each.model, "lines": each.lines, "missing": each.model in missing} for each in checked.models]
    return {
        "lines": checked.lines,
        "bytes": checked.bytes,
        "endpoint": source.endpoint,
        "models": models,
        "estimate": estimate,
    }


def _placed(error: LineError, source: BatchSource) -> LineError:
    """An error by the line of the file, where it is one of a line."""
    return error if error.line is None else LineError(error.code, error.message, source.place(error.line), error.param)
