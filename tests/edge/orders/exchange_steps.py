"""What backends of plain requests do, and what must hold of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .messages import answer, messages, request, requests_in
from .play import (
    Actor,
    Play,
    Step,
)

GET_1, GET_2, GET_3 = (request(b"/%d" % number) for number in (1, 2, 3))
ANSWER_1, ANSWER_2, ANSWER_3 = (answer(b"/%d" % number) for number in (1, 2, 3))
BODY = bytes(range(97, 123)) * 3
Check = Callable[[Play], None]
End = Callable[[], Step]


# --- backends ---------------------------------------------------------------------------------------------------------


def asked(count: int) -> Callable[[Play, Actor], bool]:
    """Once the backend has got so many whole requests."""
    return lambda play, actor: sum(message.whole for message in requests_in(actor.received)) >= count


def begun(count: int = 1) -> Callable[[Play, Actor], bool]:
    """Once the backend has got so many heads."""
    return lambda play, actor: sum(bool(message.fields) for message in requests_in(actor.received)) >= count


def answers(count: int, make: Callable[[bytes], bytes] = answer, first: int = 0) -> list[Step]:
    """Steps of a backend that answers so many requests, each once it is whole. :param first: those before this were"""

    def step(number: int) -> Step:
        def do(play: Play, actor: Actor) -> None:
            assert actor.peer is not None
            if not actor.peer.said_all:
                actor.peer.send(make(requests_in(actor.received)[number].path))

        return Step(f"answers request {number}", do, asked(number + 1))

    return [step(number) for number in range(first, first + count)]


# --- what must hold ---------------------------------------------------------------------------------------------------


def got(*expected: bytes, once: bool = True, ended: str | None = None) -> Check:
    """The client got exactly this, and the backends got each request once, in order.

    :param once: whether no request went to a second connection
    """

    def check(play: Play) -> None:
        assert play.client.received == b"".join(expected)
        http = [line for line in play.lines if line["event"] == "http"]
        assert len(http) == len([text for text in expected if not text.startswith(b"HTTP/1.1 1")])
        assert all(line["cause"] is None for line in http), http
        if once:
            heads = [message.line for backend in play.backends for message in requests_in(backend.received)]
            assert len(heads) == len(set(heads)) == len(http)
        if ended is not None:
            assert play.client.ended == ended

    return check


def bodies_are(*bodies: bytes) -> Check:
    """Backends got these bodies, one a request."""

    def check(play: Play) -> None:
        seen = [message for backend in play.backends for message in requests_in(backend.received)]
        assert all(message.whole for message in seen)
        assert [message.body for message in seen] == list(bodies)

    return check


def all_of(*checks: Check) -> Check:
    def check(play: Play) -> None:
        for one in checks:
            one(play)

    return check


def in_order(*paths: bytes, errors: Sequence[int] = (502,), cuts: bool = True, interim: bool = False) -> Check:
    """The n-th answer that the client got is the one to its n-th request, or an error of the gateway's.

    :param errors: those that may be
    :param cuts: whether an answer may break off; the connection has ended behind that
    """

    def check(play: Play) -> None:
        seen = [message for message in messages(play.client.received) if not message.line.startswith(b"HTTP/1.1 1")]
        assert len(seen) <= len(paths)
        for number, (message, path) in enumerate(zip(seen, paths, strict=False)):
            is_error = bool(message.fields) and message.status in errors and b"gateway" not in message.fields
            if is_error:
                assert message.whole
                assert b": " in message.body
            elif message.whole:
                assert message.body == b"answer to " + path
            else:
                assert cuts, message
                assert number == len(seen) - 1
                assert (b"answer to " + path).startswith(message.body)
                assert play.client.ended or play.client.peer.gone
        http = [line for line in play.lines if line["event"] == "http"]
        assert len(http) <= len(paths)
        assert len(http) >= len(seen)
        at_most_once(play)

    return check


def at_most_once(play: Play) -> None:
    """No request that must not be repeated went to backends twice, and no backend got two that were mixed up."""
    seen = [message for backend in play.backends for message in requests_in(backend.received)]
    posts = [message.line for message in seen if message.line.startswith(b"POST")]
    assert len(posts) == len(set(posts))
    for message in seen:
        assert b"POST /x HTTP/1.1".startswith(message.line[:6]) or message.line.startswith(b"GET"), message


def before_next(play: Play, actor: Actor) -> bool:
    """Before the backend has got its second request whole."""
    return not asked(2)(play, actor)
