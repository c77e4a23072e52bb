"""Whether the lines of a batch may be sent: where they go, what they will take, and when they may begin."""

from jobs.batches.estimate import too_dear
from jobs.batches.lines.line_check import Checked, LineRefusal
from jobs.batches.running.batch_context import ModelRoute
from jobs.batches.running.run_parts import EndedEarly, Routes, RunParts, tiers_of
from jobs.batches.start_rules import NotYet, StartNow
from jobs.core.errors import PutOff, StoreTrouble, Trouble


class Beginning:
    """Of one attempt, and of one thread at a time."""

    def __init__(self, parts: RunParts) -> None:
        self._parts = parts

    def unknown_model(self, name: str) -> LineRefusal | None:
        """What is wrong with a model that a line asks for."""
        found = self._route(name)
        if isinstance(found, ModelRoute):
            return None
        return LineRefusal("model_not_found", f"{found}; {found.hint}" if found.hint else str(found))

    def is_gone(self, model: str) -> bool:
        """Whether a model that was here is not any more, as far as can be known now."""
        try:
            return isinstance(self._route(model), Trouble)
        except Trouble:
            return False

    def routes(self, checked: Checked) -> Routes | EndedEarly:
        """Where the lines go; or that one of the models is not here any more."""
        found: dict[str, ModelRoute] = {}
        for each in checked.models:
            route = self._route(each.model)
            if isinstance(route, Trouble):
                why = f"model {each.model!r} is not here any more: {route}"
                return EndedEarly("failed", "model_not_found", why)
            found[each.model] = route
        self._parts.state.note(tiers=tiers_of(found))
        return found

    def _route(self, model: str) -> ModelRoute | Trouble:
        """Where lines of a model go; or why nowhere.

        Raises:
            Trouble: that cannot be known now.

        """
        try:
            return self._parts.context.route(model)
        except StoreTrouble:
            raise
        except Trouble as trouble:
            if trouble.can_retry:
                raise
            return trouble

    def too_dear(self, checked: Checked) -> EndedEarly | None:
        """What it will take is known from here on; whether that is more than it may."""
        parts = self._parts
        if parts.state.now.estimate is not None:
            return None
        estimate = parts.context.estimate(parts.record, checked)
        parts.state.note(estimate=estimate)
        refusal = too_dear(parts.record.max_dollars, estimate) if estimate is not None else None
        return None if refusal is None else EndedEarly("failed", refusal.code, refusal.message)

    def begin(self, routes: Routes) -> None:
        """Have the lines sent from now on.

        Raises:
            PutOff: not yet.

        """
        parts = self._parts
        decision = self.may_start(routes)
        parts.state.note(note=decision.note)
        parts.attempt.hold()
        parts.shown.write(may_wake=bool(decision.wakes))
        parts.state.enter("in_progress")

    def may_start(self, routes: Routes) -> StartNow:
        """
        Raises:
            PutOff: it may not, for now.

        """
        parts = self._parts
        starts, estimate = parts.context.starts, parts.state.now.estimate
        if starts is None:
            return StartNow()
        decision = starts.may_start(parts.record, estimate, tiers_of(routes))
        if isinstance(decision, NotYet):
            parts.state.note(note=decision.note, starts_at=decision.latest)
            parts.state.enter("in_progress" if parts.state.now.in_progress_at else "validating")
            raise PutOff(decision.note, decision.not_before)
        return decision

    def ask_again(self, routes: Routes) -> None:
        """Its lines are turned away: a tier may have fallen asleep, so ask whether it may be woken.

        Raises:
            PutOff: it may not, for now.

        """
        decision = self.may_start(routes)
        if bool(decision.wakes) != self._parts.shown.may_wake:
            self._parts.shown.write(may_wake=bool(decision.wakes))

    def over(self, routes: Routes) -> None:
        """No line is sent any more, unless another attempt goes on at once."""
        parts = self._parts
        if parts.context.starts is not None:
            parts.context.starts.over(parts.record, tiers_of(routes) or parts.state.now.tiers)
