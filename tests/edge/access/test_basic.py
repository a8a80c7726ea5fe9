"""Users and passwords of requests: what is let in, what is refused, and when a password is compared at all."""

from base64 import b64encode

import pytest

from gateway.config.settings import Basic as Rules
from gateway.edge.access import passwords as passwords_module
from gateway.edge.access.attempts import MOST_FAILURES, WINDOW_SECONDS
from gateway.edge.access.basic import Basic
from gateway.edge.access.credentials import Credentials
from gateway.edge.access.granted import Granted
from gateway.edge.access.passwords import KEPT_SECONDS, MOST_OF_A_SOURCE, MOST_QUEUED, Passwords
from gateway.edge.refused import Refused
from gateway.edge.trust import Peer

from ..requests import examined, request_head
from .test_attempts import Clock

FILE = "/etc/gateway/users"
ANN, BOB = ("$2y$05$" + letter * 53 for letter in "ab")
USERS = f"ann:{ANN}\nbob:{BOB}\ngrüße:{BOB}\n"
PASSWORDS = {ANN: b"secret", BOB: b"a:b"}
CHALLENGE = (b"WWW-Authenticate", b'Basic realm="chat", charset="UTF-8"')


def asked(*fields, host="192.0.2.7"):
    """A request with these fields."""
    lines = [f"{name}: {value}".encode("latin-1") for name, value in fields]
    head = request_head(b"GET / HTTP/1.1", b"Host: gateway.test", *lines)
    return examined(head, Peer(host, 5000, False))


class Thread:
    """In place of the thread: what it was asked to compare, which it does when it is told to."""

    def __init__(self):
        self.jobs = []

    def add(self, job):
        self.jobs.append(job)

    def work(self):
        jobs, self.jobs = self.jobs, []
        for job in jobs:
            job.done(None if job.dropped else PASSWORDS[job.stored] == job.password)


class Rig:
    def __init__(self):
        self.clock = Clock()
        self.thread = Thread()
        self.credentials = Credentials(lambda url: None)
        self.credentials.use({FILE: USERS})
        self.passwords = Passwords(self.thread, self.clock)
        self.method = Basic(Rules(FILE, "chat"), self.credentials, self.passwords)

    def begin(self, *fields, host="192.0.2.7", method=None):
        """Check a request. :returns: verdicts, to which one is added when it is there, and what cancels it"""
        verdicts = []
        request = asked(*fields, host=host)
        try:
            answer = (method or self.method).check(request)
        except Refused as refused:
            return [refused], None
        if isinstance(answer, Granted):
            return [answer], None
        cancel = answer(verdicts.append)
        assert verdicts == []
        return verdicts, cancel

    def verdict(self, *fields, **keys):
        verdicts, _ = self.begin(*fields, **keys)
        if not verdicts:
            self.thread.work()
        (verdict,) = verdicts
        return verdict

    def compared(self, *fields, **keys):
        """How many passwords are compared for a request."""
        _, cancel = self.begin(*fields, **keys)
        count = len([job for job in self.thread.jobs if not job.dropped])
        if cancel is not None:
            cancel()
        self.thread.work()
        return count


@pytest.fixture
def rig():
    return Rig()


def field(user, password, scheme="Basic"):
    pair = b":".join(each if isinstance(each, bytes) else each.encode() for each in (user, password))
    return ("Authorization", f"{scheme} {b64encode(pair).decode()}")


@pytest.mark.parametrize(
    ("given", "user"),
    [
        (field("ann", "secret"), "ann"),
        (field("ann", "secret", "bAsIc"), "ann"),
        (field("ann", "secret", "Basic  "), "ann"),
        (field("bob", "a:b"), "bob"),
        (field("grüße", "a:b"), "grüße"),
    ],
)
def test_allowed(rig, given, user):
    assert rig.verdict(given) == Granted(user)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([], 401),
        ([field("ann", "wrong")], 401),
        ([field("ann", "")], 401),
        ([field("ann", "Secret")], 401),
        ([field("ann", "secret\n")], 401),
        ([field("ann", b"secret\x00")], 401),
        ([field("ann", b"secret\x7f")], 401),
        ([field("Ann", "secret")], 401),
        ([field("", "secret")], 401),
        ([field("", "")], 401),
        ([field("eve", "secret")], 401),
        ([field(b"gr\xfc\xdfe", "a:b")], 401),  # Latin-1
        ([field("ann", "secret", "Bearer")], 401),
        ([field("ann", "secret", "Basically")], 401),
        ([("Authorization", "")], 401),
        ([("Authorization", "Basic")], 401),
        ([("Authorization", "Basic ====")], 401),
        ([("Authorization", "Basic YW5uOnNlY3JldA")], 401),  # without padding
        ([("Authorization", "Basic YW5u OnNlY3JldA==")], 401),
        ([("Authorization", "Basic YW5uOnNlY3JldA==!")], 401),
        ([("Authorization", "Basic YW5u")], 401),  # no colon
        ([("Authorization", "ann:secret")], 401),
        ([("Proxy-Authorization", field("ann", "secret")[1])], 401),
        ([field("ann", "secret"), field("ann", "secret")], 400),
        ([field("ann", "secret"), ("AUTHORIZATION", "Bearer x")], 400),
    ],
)
def test_refused(rig, fields, status):
    refused = rig.verdict(*fields)
    assert isinstance(refused, Refused)
    assert refused.status == status
    assert list(refused.fields) == ([CHALLENGE] if status == 401 else [])
    assert "ann" not in refused.reason


def test_right_ones_are_known_for_a_while(rig):
    assert rig.compared(field("ann", "secret")) == 1  # it went away before the answer
    assert rig.verdict(field("ann", "secret")) == Granted("ann")
    assert rig.compared(field("ann", "secret")) == 0
    assert rig.compared(field("ann", "secret"), host="192.0.2.8") == 0
    assert rig.compared(field("ann", "secre")) == 1
    rig.clock.now += KEPT_SECONDS
    assert rig.compared(field("ann", "secret")) == 1


def test_user_and_password_are_told_apart(rig):
    """``an`` with ``nsecret`` is not ``ann`` with ``secret``."""
    rig.verdict(field("ann", "secret"))
    assert rig.verdict(field("an", "nsecret")).status == 401


def test_wrong_ones_are_known_for_a_while_and_count_once(rig):
    for _ in range(3 * MOST_FAILURES):
        assert rig.verdict(field("ann", "wrong")).status == 401
    assert rig.compared(field("ann", "wrong")) == 0
    assert rig.verdict(field("ann", "secret")) == Granted("ann")
    rig.clock.now += KEPT_SECONDS
    assert rig.compared(field("ann", "wrong")) == 1


def test_another_file_counts_at_once(rig):
    assert rig.verdict(field("ann", "secret")) == Granted("ann")
    assert rig.verdict(field("eve", "a:b")).status == 401
    rig.credentials.use({FILE: f"ann:{BOB}\neve:{BOB}\n"})
    assert rig.verdict(field("ann", "secret")).status == 401
    assert rig.verdict(field("ann", "a:b")) == Granted("ann")
    assert rig.verdict(field("eve", "a:b")) == Granted("eve")
    rig.credentials.use({FILE: ""})
    assert rig.verdict(field("ann", "a:b")).status == 401
    assert rig.thread.jobs == []
    rig.credentials.use({FILE: USERS})
    assert rig.verdict(field("ann", "secret")) == Granted("ann")


def test_a_file_that_changes_meanwhile(rig):
    """The verdict is about the file as it was; the next request is judged by the new one."""
    verdicts, _ = rig.begin(field("ann", "secret"))
    rig.credentials.use({FILE: f"ann:{BOB}\n"})
    rig.thread.work()
    assert verdicts == [Granted("ann")]
    assert rig.verdict(field("ann", "secret")).status == 401


def test_unknown_users_take_as_long(rig):
    """A password is compared with the same one of the hashes each time, and never lets anybody in."""
    with_hashes = set()
    for number in range(40):
        user = f"nobody{number}"
        for password in ("secret", "a:b"):
            verdicts, _ = rig.begin(field(user, password), host=f"198.51.100.{number}")
            (job,) = rig.thread.jobs
            with_hashes.add((user, job.stored))
            rig.thread.work()
            assert verdicts[0].status == 401
    assert len(with_hashes) == 40
    assert {stored for _, stored in with_hashes} == {ANN, BOB}


def test_requests_at_once_share_one_comparison(rig):
    """Also those of other routes, with other realms."""
    other = Basic(Rules(FILE, "other"), rig.credentials, rig.passwords)
    begun = [rig.begin(field("ann", "wrong"), host="2001:db8::1")[0] for _ in range(100)]
    begun.append(rig.begin(field("ann", "wrong"), host="2001:db8::2", method=other)[0])
    assert len(rig.thread.jobs) == 1
    rig.thread.work()
    assert {verdict.status for (verdict,) in begun} == {401}
    assert list(begun[0][0].fields) == [CHALLENGE]
    assert b'realm="other"' in begun[-1][0].fields[0][1]


def test_guesses_of_an_address_are_bounded(rig):
    for number in range(MOST_FAILURES):
        assert rig.verdict(field("ann", f"guess{number}"), host="2001:db8::1").status == 401
        rig.clock.now += 1
    refused = rig.verdict(field("ann", "secret"), host="2001:db8::beef")
    assert refused.status == 429
    assert refused.result == "limited"
    assert list(refused.fields) == [(b"Retry-After", b"%d" % (WINDOW_SECONDS - MOST_FAILURES))]
    assert rig.thread.jobs == []
    assert rig.verdict(field("ann", "secret"), host="2001:db8:1::1") == Granted("ann")
    # What is known to be right is let in from anywhere: others may share the address.
    assert rig.verdict(field("ann", "secret"), host="2001:db8::beef") == Granted("ann")
    rig.clock.now += WINDOW_SECONDS - MOST_FAILURES
    assert rig.verdict(field("bob", "a:b"), host="2001:db8::beef") == Granted("bob")


def test_addresses_in_any_spelling_are_the_same(rig):
    for number in range(MOST_FAILURES):
        rig.verdict(field("ann", f"guess{number}"), host="192.0.2.1" if number % 2 else "::ffff:c000:201")
    assert rig.verdict(field("ann", "secret"), host="192.0.2.1").status == 429


def test_peers_without_an_address_are_not_counted(rig):
    for number in range(MOST_FAILURES):
        rig.verdict(field("ann", f"guess{number}"), host="")
    assert rig.verdict(field("ann", "secret"), host="") == Granted("ann")


def test_passwords_that_wait_are_bounded(rig):
    of_one = [rig.begin(field("ann", f"guess{number}"))[0] for number in range(MOST_OF_A_SOURCE + 1)]
    assert [verdict.status for verdict in of_one[-1]] == [503]
    assert all(not verdicts for verdicts in of_one[:-1])
    for number in range(MOST_QUEUED - MOST_OF_A_SOURCE):
        assert rig.begin(field("ann", f"other{number}"), host=f"203.0.113.{number}")[0] == []
    assert rig.begin(field("ann", "other0"), host="192.0.2.98")[0] == []  # it waits with the previous one
    (refused,), _ = rig.begin(field("bob", "a:b"), host="192.0.2.99")
    assert refused.status == 503
    assert refused.result == "unavailable"
    assert list(refused.fields) == []  # as every 503 it gets a Retry-After
    rig.thread.work()
    assert rig.verdict(field("bob", "a:b"), host="192.0.2.99") == Granted("bob")


def test_a_client_that_goes_away(rig):
    verdicts, cancel = rig.begin(field("ann", "secret"))
    others, cancel_others = rig.begin(field("ann", "secret"))
    cancel()
    cancel()
    rig.thread.work()
    assert verdicts == []
    assert others == [Granted("ann")]
    cancel_others()


def test_a_question_without_anybody_is_dropped(rig):
    verdicts, cancel = rig.begin(field("ann", "wrong"))
    cancel()
    again, _ = rig.begin(field("ann", "wrong"))
    assert [job.dropped for job in rig.thread.jobs] == [True, False]
    rig.thread.work()
    assert verdicts == []
    assert [verdict.status for verdict in again] == [401]
    for _ in range(2 * MOST_QUEUED):  # they count no more
        rig.begin(field("ann", "other"))[1]()
    assert rig.begin(field("ann", "other"))[0] == []


def test_a_hash_that_cannot_be_used(rig):
    verdicts, _ = rig.begin(field("ann", "secret"))
    rig.thread.jobs.pop().done(None)
    assert verdicts[0].status == 503
    assert rig.verdict(field("ann", "secret")) == Granted("ann")


def test_one_verdict_that_fails_stops_no_other(rig, caplog):
    def fail(verdict):
        raise RuntimeError("out of the blue")

    request = asked(field("ann", "secret"))
    rig.method.check(request)(fail)
    verdicts, _ = rig.begin(field("ann", "secret"))
    rig.thread.work()
    assert verdicts == [Granted("ann")]
    assert "out of the blue" in caplog.text
    caplog.clear()


def test_memory_is_bounded(rig, monkeypatch):
    for number in range(100):
        rig.verdict(field("ann", f"wrong{number}"), host=f"2001:db8:{number:x}::1")
    assert len(rig.passwords._wrong) == 100
    assert len(rig.passwords._asked) == len(rig.passwords._of_source) == 0
    assert passwords_module.MOST_WRONG <= 16 * 1024
