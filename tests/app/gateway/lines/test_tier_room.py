"""What a tier has room for, by what its servers report and what is known of its models."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from app.gateway.catalog.server_reports import FRESH, ServerReports
from app.gateway.lines.tier_room import ReportedRoom
from app.model_server.report import Loaded, Report
from jobs.core.errors import NotFound
from jobs.models.placement import TierCapacity, Weighed
from jobs.testing.clock import HandClock

GB = 1_000_000_000


class Servers:
    """What the servers of a tier said last."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.reports: tuple[Report, ...] = ()

    def serve(self, *loaded: Sequence[str], tier: str = "a10g") -> None:
        """So many serve, each with these models in memory."""
        self.reports = tuple(
            Report(
                tier, f"c{number}", "serving", self.clock.now(), loaded=tuple(Loaded(name, 1, 1, 1) for name in names)
            )
            for number, names in enumerate(loaded)
        )

    def room(
        self, *, vram: int | None = None, at_once: int | None = None, most_loaded: int | None = None
    ) -> ReportedRoom:
        tier = TierCapacity("a10g", vram, gpu_promised=False)

        def weigh(model: str) -> Weighed:
            if model == "gone":
                raise NotFound("it is not here any more")
            return Weighed(tier, {"small": 4 * GB}.get(model, 15 * GB), None, 1, 1, "")

        return ReportedRoom(
            "a10g",
            ServerReports(lambda tier: [each for each in self.reports if each.tier == tier], lambda: None, self.clock),
            lambda: self.reports,
            weigh,
            asleep=lambda: False,
            waiting=lambda: 0,
            at_once=at_once,
            most_loaded=most_loaded,
        )


def test_slots_are_those_of_all_servers_that_are_up() -> None:
    """One where nothing is known; a server that said nothing for long is none; what the fleet wants at once bounds
    each."""
    of = Servers()
    assert of.room().slots(4) == 4
    of.serve([], [])
    assert of.room().slots(4) == 8
    assert of.room(at_once=2).slots(4) == 4
    assert of.room(at_once=9).slots(4) == 8
    of.reports = (of.reports[0], replace(of.reports[1], state="waking"))
    assert of.room().slots(4) == 4
    of.clock.tick(FRESH.total_seconds() + timedelta(seconds=1).total_seconds())
    assert of.room().slots(1) == 1


def test_what_is_in_memory_pushes_nothing_out() -> None:
    """On each server that is up: of several, any may be asked."""
    of = Servers()
    of.serve(["large", "other"])
    assert not of.room().pushes_out("large", ["other"])
    of.serve(["large", "other"], ["other"])
    assert of.room().pushes_out("large", ["other"])
    of.serve(["large"], tier="h100")
    assert of.room().pushes_out("large", ["other"])


@pytest.mark.parametrize(
    ("vram", "most_loaded", "model", "others", "pushes"),
    [
        (24 * GB, 3, "small", ["large"], False),
        (24 * GB, 3, "large", ["other"], True),
        (24 * GB, 1, "small", ["large"], True),  # a server keeps one
        (24 * GB, None, "small", ["large"], True),  # nobody says how many
        (None, 3, "small", ["large"], True),  # nor how much memory there is
        (24 * GB, 3, "small", ["gone"], True),
    ],
)
def test_what_is_known_to_fit_pushes_nothing_out(
    vram: int | None, most_loaded: int | None, model: str, others: list[str], pushes: bool
) -> None:
    """Where it is not known, it may."""
    assert Servers().room(vram=vram, most_loaded=most_loaded).pushes_out(model, others) is pushes
