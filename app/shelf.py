"""What is on the volume, for whoever mounts it: nothing here writes."""

from pathlib import Path

from app.resources import MODELS, weights
from jobs import survey
from jobs.inventory import Found, found_in
from jobs.layout import Layout


def found() -> Found:
    """The models, and what is wrong with those that are not whole."""
    weights.reload()
    return found_in(survey.survey(Layout(Path(MODELS))), "the volume")
