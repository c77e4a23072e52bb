"""What both dialects do with batches: post one, cancel one."""

from app.gateway.auth.keys import Caller
from app.gateway.batches.parts import BatchContext, find_batch
from app.gateway.protocol.exchange import Exchange
from jobs.batches.batch_store import Batch, BatchStore
from jobs.batches.records import BatchDialect, BatchRecord


async def post(context: BatchContext, caller: Caller, record: BatchRecord) -> Batch:
    """Post a batch, and have a worker sent. Where its id was posted before, the answer is the batch that is there."""

    def posting(store: BatchStore) -> Batch:
        known = store.find(record.id)
        if known is not None:
            return known
        batch = store.post(record)
        context.send()
        return batch

    return await context.batches(caller, posting)


async def cancel(context: BatchContext, exchange: Exchange, dialect: BatchDialect) -> Batch:
    """Ask the batch to stop, and have a worker sent who keeps what is done. One that has ended stays as it is.

    Raises:
        NotFound: there is none for this caller.

    """
    caller, id = exchange.caller, exchange.below

    def cancelling(store: BatchStore) -> Batch:
        batch = find_batch(store, caller, id, dialect)
        with context.act(exchange, "cancel", id):
            if batch.has_ended:
                return batch
            batch = store.cancel(id, by=caller.name)
        context.send()
        return batch

    return await context.batches(caller, cancelling)
