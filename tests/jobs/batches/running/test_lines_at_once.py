"""What a fleet says of lines under way holds for all batches together."""

from jobs.batches.running.batch_context import LinesAtOnce


def test_batches_share_what_may_be_under_way() -> None:
    """The lines of two batches together are no more than may be, each has at least one, and one alone has all."""
    at_once = LinesAtOnce(10)
    with at_once.shared():
        assert at_once.of_each() == 10
        with at_once.shared(), at_once.shared():
            assert at_once.of_each() == 3
        assert at_once.of_each() == 10
    few = LinesAtOnce(1)
    with few.shared(), few.shared():
        assert few.of_each() == 1
    assert LinesAtOnce().of_each() > 1000
