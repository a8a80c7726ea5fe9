"""A request whose credentials are being checked elsewhere: by a thread, a key set's server or an auth server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from gateway.edge.refused import Refused

if TYPE_CHECKING:
    from gateway.edge.access.granted import Granted
    from gateway.edge.access.method import Cancel, Waiting
    from gateway.edge.request import Request


class Checked(Protocol):
    """The client's connection, as this sees it (``edge/client.py``)."""

    def gone(self) -> None:
        """The request is over, as the client went away."""

    def checked(self, request: Request, verdict: Granted | Refused) -> None:
        """The answer is there: serve the request, or refuse it."""

    def left_unchecked(self, request: Request) -> None:
        """The client went away before the answer: log that."""


class Checking:
    """Waits for the verdict, in place of an exchange or an upgrade (``Task`` in ``edge/client.py``)."""

    __slots__ = ("_cancel", "_client", "_over", "_request")

    def __init__(self, client: Checked, request: Request) -> None:
        self._client = client
        self._request = request
        self._cancel: Cancel | None = None
        self._over = False

    def start(self, waiting: Waiting) -> None:
        """Begin to wait."""
        self._cancel = waiting(self._decided)

    def _decided(self, verdict: Granted | Refused) -> None:
        if not self._over:
            self._over = True
            self._client.checked(self._request, verdict)

    def client_gone(self, error: int) -> None:
        """The client went away. :param error: an errno; 0 for its end"""
        self.abandon()
        self._client.left_unchecked(self._request)
        self._client.gone()

    def late(self) -> None:
        """The deadline has passed."""
        self._refuse("the credentials could not be checked in time", "timeout")

    def shut_down(self) -> None:
        """The gateway exits."""
        self._refuse("this gateway is shutting down", "unavailable")

    def _refuse(self, reason: str, result: str) -> None:
        self._stop()
        self._client.checked(self._request, Refused(503, reason, result, self._request.route))

    def abandon(self) -> None:
        """Something failed: let go of everything."""
        self._stop()

    def _stop(self) -> None:
        self._over = True
        cancel, self._cancel = self._cancel, None
        if cancel is not None:
            cancel()
