"""Calls the deployed worker of a lane. The queue says which jobs there are; this starts who works on them."""

from loguru import logger

from app.resources import BATCHES_WORKER, SERVERS_WORKER, WEIGHTS_WORKER, deployment, ledger
from jobs.core.clock import SystemClock
from jobs.core.errors import NotFound, StoreTrouble
from jobs.ledger.kinds import BATCHES_LANE, SERVERS_LANE, WEIGHTS_LANE
from jobs.worker.presence import is_at_work

WORKERS = {WEIGHTS_LANE: WEIGHTS_WORKER, SERVERS_LANE: SERVERS_WORKER, BATCHES_LANE: BATCHES_WORKER}


def spawn_worker(lane: str) -> bool:
    """Call the lane's worker, unless it is at work; false when nothing is deployed that could come.

    Raises:
        Trouble: the platform cannot be reached. The next tick calls it again.

    """
    if _is_at_work(lane):
        return True
    try:
        deployment.send(WORKERS[lane])
    except NotFound:
        return False
    return True


def _is_at_work(lane: str) -> bool:
    try:
        return is_at_work(ledger, lane, SystemClock().now())
    except StoreTrouble as trouble:  # one too many finds nothing to do
        logger.warning("whether lane {} has a worker is not known: {}", lane, trouble)
        return False
