"""Sends a worker of the deployed app to a lane. A bell in the queue says which job; this says that there is one."""

import modal

from app.resources import APP, SERVERS_WORKER, WEIGHTS_WORKER
from jobs.record import SERVERS_LANE, WEIGHTS_LANE

WORKERS = {WEIGHTS_LANE: WEIGHTS_WORKER, SERVERS_LANE: SERVERS_WORKER}


def ring(lane: str) -> bool:
    """Call the lane's worker; false when nothing is deployed that could come."""
    try:
        modal.Function.from_name(APP, WORKERS[lane]).spawn()
    except modal.exception.NotFoundError:
        return False
    return True
