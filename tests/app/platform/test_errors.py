"""Every exception of the platform has a place in the error tree, which says whether trying again helps."""

import inspect

import pytest
from grpclib import GRPCError, Status
from grpclib.exceptions import StreamTerminatedError
from modal import exception as modal_exception

from app.platform.errors import MEANINGS, NOT_TROUBLE, PlatformPart, no_answer, trouble_of
from jobs.core.errors import (
    DiskFull,
    Forbidden,
    NotFound,
    ServerTrouble,
    StoreTrouble,
    StoreUnavailable,
    StoreUnusable,
    TooManyRequests,
    Trouble,
    Unauthorized,
    Unreachable,
)


def test_no_exception_of_modal_is_missing() -> None:
    """Each public exception class of `modal.exception` is in the table, or among those that nobody raises."""
    public = {
        found
        for name, found in vars(modal_exception).items()
        if inspect.isclass(found) and issubclass(found, BaseException) and not name.startswith("_")
    }
    assert public - set(MEANINGS) - NOT_TROUBLE == set()
    assert set(MEANINGS) & NOT_TROUBLE == set()


@pytest.mark.parametrize("of", ["store", "service"])
def test_what_the_store_raises_is_told_from_the_other_side(of: PlatformPart) -> None:
    """What a Dict or Queue raises for now or for good is StoreTrouble, and nothing else is."""
    for kind, (store, service) in MEANINGS.items():
        meaning = store if of == "store" else service
        if "Bug" not in meaning.__name__ and kind is not modal_exception.RequestSizeError:
            assert issubclass(meaning, StoreTrouble) is (of == "store"), kind


@pytest.mark.parametrize(
    ("error", "store", "service"),
    [
        (modal_exception.ServiceError("away"), StoreUnavailable, ServerTrouble),
        (modal_exception.ConflictError("not now"), StoreUnavailable, ServerTrouble),
        (modal_exception.ResourceExhaustedError("slow down"), StoreUnavailable, TooManyRequests),
        (modal_exception.ConnectionError("no way"), StoreUnavailable, Unreachable),
        (modal_exception.AuthError("who?"), StoreUnusable, Unauthorized),
        (modal_exception.PermissionDeniedError("not you"), StoreUnusable, Forbidden),
        (modal_exception.NotFoundError("where?"), StoreUnusable, NotFound),
        (GRPCError(Status.UNAVAILABLE, "raw"), StoreUnavailable, ServerTrouble),
        (GRPCError(Status.UNAUTHENTICATED, "raw"), StoreUnusable, Unauthorized),
        (StreamTerminatedError("cut"), StoreUnavailable, Unreachable),
        (TimeoutError(), StoreUnavailable, Unreachable),
        (ConnectionResetError(104, "reset"), StoreUnavailable, Unreachable),
        (OSError(28, "No space left on device"), DiskFull, DiskFull),
    ],
    ids=lambda each: each.__name__ if inspect.isclass(each) else type(each).__name__,
)
def test_each_becomes_a_trouble_that_names_what_was_going_on(
    error: Exception, store: type[Trouble], service: type[Trouble]
) -> None:
    """The class says whether trying again helps; the message says what was going on, and which exception it was."""
    for of, expected in (("store", store), ("service", service)):
        found = trouble_of(error, of, "reading the ledger")  # type: ignore[arg-type]
        assert type(found) is expected
        assert str(found).startswith("reading the ledger: ")
    assert trouble_of(error, "store", "x").can_retry is issubclass(store, StoreUnavailable | DiskFull)  # type: ignore[union-attr]


def test_a_class_that_is_newer_than_the_table_is_tried_again() -> None:
    """A class of a later client means what its ancestor means; the root of all of them is no bug of ours."""

    class Unheard(modal_exception.Error):
        pass

    assert type(trouble_of(Unheard("?"), "store", "x")) is StoreUnavailable


def test_the_volume_hides_two_of_its_own_in_a_runtime_error() -> None:
    """A RuntimeError of the Volume means what stands behind it; any other RuntimeError is not the platform's."""

    def of_the_volume(behind: Exception) -> RuntimeError:
        try:
            try:
                raise behind  # noqa: TRY301 - as the client does
            except Exception as error:
                raise RuntimeError(str(error))  # noqa: B904 - as the client does
        except RuntimeError as error:
            return error

    assert type(trouble_of(of_the_volume(modal_exception.ConflictError("open files")), "service", "x")) is ServerTrouble
    assert type(trouble_of(of_the_volume(modal_exception.NotFoundError("no volume")), "service", "x")) is NotFound
    assert trouble_of(RuntimeError("ours"), "service", "x") is None
    assert trouble_of(ValueError("ours"), "store", "x") is None


def test_what_takes_an_input_back_passes() -> None:
    """The platform's order to stop an input is nobody's trouble."""
    assert trouble_of(modal_exception.InputCancellation(), "store", "x") is None


def test_silence_says_how_long() -> None:
    """Who was not answered, and for how long."""
    assert str(no_answer("store", "reading job/1 of the ledger", 10)) == (
        "reading job/1 of the ledger: Modal did not answer within 10 s"
    )
    assert type(no_answer("store", "x", 1)) is StoreUnavailable
    assert type(no_answer("service", "x", 1)) is ServerTrouble
