"""What is wrong with the body of a line, told before one of its batch is sent, as far as a gateway would refuse it."""

import json
from collections.abc import Mapping
from typing import Any

from app.gateway.protocol import refusals
from app.gateway.protocol.json_body.search import fields_of
from app.gateway.protocol.request import few_marks
from jobs.batches.lines.line_check import LineRefusal
from jobs.core.errors import BadRequest, Trouble


def wrong_shape(endpoint: str, body: Mapping[str, Any]) -> LineRefusal | None:
    """Why a gateway would refuse such a body at this endpoint, whatever the model; None where it would not."""
    try:
        raw = json.dumps(body).encode()
        found = fields_of(raw, refusals.FIELDS.get(endpoint, frozenset()), marks=few_marks(raw))
        refusal: Trouble | None = refusals.judge(found, endpoint).refusal
    except BadRequest as wrong:
        refusal = wrong
    except RecursionError:
        refusal = BadRequest("the body nests too deep")
    return None if refusal is None else LineRefusal("invalid_request", str(refusal), "body")
