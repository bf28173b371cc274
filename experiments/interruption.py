"""Being stopped: Ctrl-C, and the signal by which a scheduler takes a machine away."""

import contextlib
import signal
from collections.abc import Callable, Iterator


class Terminated(KeyboardInterrupt):
    """SIGTERM: what can be stored is to be stored now. Like Ctrl-C it is no error."""


_EXCEPTIONS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Within it SIGTERM raises `Terminated`, as Ctrl-C raises KeyboardInterrupt."""

    def stop(*_: object) -> None:
        raise Terminated

    with _handling({signal.SIGTERM: stop}):
        yield


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], type[KeyboardInterrupt] | None]]:
    """Yields a function that tells by which exception to stop, or None; a second signal stops at once.

    Stopping between two steps rather than within one leaves a state that can be stored.
    """
    asked: type[KeyboardInterrupt] | None = None
    before = {number: signal.getsignal(number) for number in _EXCEPTIONS}

    def note(number: int, _: object) -> None:
        nonlocal asked
        asked = _EXCEPTIONS[signal.Signals(number)]
        for each, handler in before.items():
            signal.signal(each, handler)

    with _handling(dict.fromkeys(_EXCEPTIONS, note)):
        yield lambda: asked


@contextlib.contextmanager
def _handling(handlers: dict) -> Iterator[None]:
    try:
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    except ValueError:  # not the main thread, where signals do not arrive either
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
