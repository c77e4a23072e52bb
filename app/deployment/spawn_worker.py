"""Calls the deployed worker of a lane. The queue says which jobs there are; this starts who works on them."""

from app.resources import SERVERS_WORKER, WEIGHTS_WORKER, deployment
from jobs.core.errors import NotFound
from jobs.ledger.kinds import SERVERS_LANE, WEIGHTS_LANE

WORKERS = {WEIGHTS_LANE: WEIGHTS_WORKER, SERVERS_LANE: SERVERS_WORKER}


def spawn_worker(lane: str) -> bool:
    """Call the lane's worker; false when nothing is deployed that could come.

    Raises:
        Trouble: the platform cannot be reached. The next tick calls it again.

    """
    try:
        deployment.send(WORKERS[lane])
    except NotFound:
        return False
    return True
