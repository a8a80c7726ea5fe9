"""Key sets that are fetched from a real server: down, back, rotated, hostile."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import Counter

import pytest
import pytest_asyncio
from aiohttp import web

from gateway.config.credentials import Credentials, KeyServer
from gateway.processes import key_fetching, key_sets
from gateway.processes.key_fetching import MAX_BYTES, NotFetched, fetch
from gateway.processes.key_sets import KeySets
from tests.support.certificates import Authority
from tests.support.deadline import eventually, quiet_for, turn, within
from tests.support.key_server import KeyServer as Server
from tests.support.key_server import key, key_set
from tests.support.ports import free_port

HOUR = 3600.0


@pytest_asyncio.fixture
async def server():
    started = await Server.start()
    yield started
    await started.down()


class Rig:
    """Key sets, and what others hear of them."""

    def __init__(self, known=None):
        self.changes = []
        self.attempts = 0
        self.answers = Counter()
        self.counts = Counter()
        self.sets = KeySets(self._attempted, self._answered, self._count, known)

    def _attempted(self, changed):
        self.attempts += 1
        if changed:
            self.changes.append(self.sets.texts)

    def _answered(self, url):
        self.answers[url] += 1

    def _count(self, route, fetched):
        self.counts[route, fetched] += 1

    def use(self, *urls, refresh=HOUR):
        servers = {url: KeyServer(refresh, (), True, ("chat",)) for url in urls}
        self.sets.use(Credentials({}, {}, {}, servers))

    async def names(self, url, *names):
        """Wait until a set has these keys."""
        await eventually(lambda: self.sets.texts.get(url) == key_set(*names), f"the keys {names}")

    async def attempted(self, times):
        await eventually(lambda: self.attempts >= times, f"{times} attempts")


@pytest_asyncio.fixture
async def rig():
    made = Rig()
    yield made
    await made.sets.close()


async def test_fetched_at_the_start(rig, server, caplog):
    caplog.set_level("INFO")
    rig.use(server.url)
    assert rig.sets.texts == {}  # nothing waits for it
    await rig.names(server.url, "one")
    assert rig.answers[server.url] == 1
    assert rig.counts == {("chat", True): 1}
    (asked,) = server.asked
    assert asked.headers["User-Agent"].startswith("upgrade-gateway/")
    assert f"key set {server.url}: fetched, 1 keys" in caplog.text


async def test_first_attempts(rig, server):
    release = asyncio.Event()

    async def late(request):
        await release.wait()
        return web.Response(status=500)

    await rig.sets.first_attempts(60)  # there are none
    rig.use(server.url)
    await rig.sets.first_attempts(60)
    assert list(rig.sets.texts) == [server.url]
    await rig.sets.first_attempts(60)
    server.answer = late
    rig.use(server.url, f"{server.url}?other")
    await rig.sets.first_attempts(0.01)
    assert list(rig.sets.texts) == [server.url]
    waiting = asyncio.create_task(rig.sets.first_attempts(60))
    release.set()
    await waiting
    assert rig.attempts == 2


async def test_fetched_again_from_time_to_time(rig, server):
    rig.use(server.url, refresh=0.02)
    await server.is_asked(3)
    server.keys = [key("two")]
    await rig.names(server.url, "two")
    assert [*map(list, rig.changes)] == [[server.url]] * 2  # only what has changed is passed on


async def test_a_server_that_is_down_and_comes_back(rig, server, caplog):
    caplog.set_level("INFO")
    rig.use(server.url, refresh=0.02)
    await rig.names(server.url, "one")
    await server.down()
    await rig.attempted(rig.attempts + 4)
    assert rig.sets.texts == {server.url: key_set("one")}
    assert rig.sets.sets[server.url].error.startswith("cannot connect: ")
    assert caplog.text.count("the keys from before stay in use") == 1
    server.keys = [key("two")]
    await server.up()
    await rig.names(server.url, "two")
    assert rig.sets.sets[server.url].error is None
    assert "fetched again after" in caplog.text
    caplog.clear()


UNUSABLE = {
    "none": [],
    "an unknown kind": [{"kty": "oct", "k": "c2VjcmV0"}],
    "for encryption": [{**key("two"), "use": "enc"}, {**key("two"), "key_ops": ["sign"]}],
    "a short RSA key": [{"kty": "RSA", "n": "A" * 171, "e": "AQAB"}],
    "an unknown curve": [{**key("two"), "crv": "X25519"}, {"kty": "EC", "crv": "P-256", "x": "AA"}],
}


@pytest.mark.parametrize("keys", UNUSABLE.values(), ids=UNUSABLE)
async def test_a_set_without_a_key_that_can_be_used(rig, server, caplog, keys):
    caplog.set_level("INFO")
    rig.use(server.url, refresh=0.02)
    await rig.names(server.url, "one")
    server.keys = keys
    await eventually(lambda: rig.counts["chat", False] >= 2, "two failures")
    assert rig.sets.texts == {server.url: key_set("one")}
    assert rig.sets.sets[server.url].error == "no key of the answer can be used"
    assert rig.sets.sets[server.url].entries == 1
    assert caplog.text.count("no key of the answer can be used; the keys from before stay in use") == 1
    server.keys = [*keys, key("two")]
    await eventually(lambda: rig.sets.sets[server.url].error is None, "a key that can be used")
    assert rig.sets.sets[server.url].entries == len(keys) + 1


async def test_a_server_that_is_down_at_the_start(rig, server, caplog, monkeypatch):
    """It is tried again sooner than usual."""
    monkeypatch.setattr(key_sets, "FIRST_RETRY_SECONDS", 0.01)
    await server.down()
    rig.use(server.url)
    await rig.attempted(2)
    assert rig.sets.texts == {}
    assert "requests with tokens get 503" in caplog.text
    await server.up()
    await rig.names(server.url, "one")
    caplog.clear()


async def test_retries_come_less_and_less_often(rig, monkeypatch, caplog):
    monkeypatch.setattr(key_sets, "JITTER", 0.0)

    async def fail(url, cas, system_cas):
        raise NotFetched("no")

    rig.sets._fetch = fail
    rig.use("http://127.0.0.1:1/", refresh=10.0)
    await rig.attempted(1)
    found = rig.sets.sets["http://127.0.0.1:1/"]
    pauses = []
    for _ in range(6):
        pauses.append(found._pause())
        found.failed("no")
    assert pauses == [1, 2, 4, 8, 10, 10]
    found._failures = 10_000
    assert found._pause() == 10
    caplog.clear()


async def test_questions_of_many_cause_one_fetch(rig, server):
    rig.use(server.url)
    await rig.attempted(1)
    await turn()
    server.keys = [key("two")]
    for _ in range(1000):
        rig.sets.wanted(server.url)
    await rig.names(server.url, "two")
    for _ in range(1000):
        rig.sets.wanted(server.url)
    before = rig.answers[server.url]
    await eventually(lambda: rig.answers[server.url] > before, "an answer")
    assert len(server.asked) == 2
    assert rig.answers[server.url] == 3  # one for each attempt, and one for all that came too late


async def test_questions_while_it_is_fetched(rig, server):
    """They are answered by that, even if it fails."""
    release = asyncio.Event()

    async def late(request):
        await release.wait()
        return web.Response(status=500)

    server.answer = late
    rig.use(server.url)
    await server.is_asked(1)
    rig.sets.wanted(server.url)
    assert rig.answers[server.url] == 0
    release.set()
    await eventually(lambda: rig.answers[server.url], "an answer")
    assert len(server.asked) == 1


async def test_questions_are_allowed_again_after_a_while(rig, server, monkeypatch):
    monkeypatch.setattr(key_sets, "ASKED_SECONDS", 0.01)
    rig.use(server.url)
    await rig.attempted(1)
    for times in (2, 3):
        await quiet_for(0.02)
        rig.sets.wanted(server.url)
        await rig.attempted(times)


async def test_a_question_about_a_set_that_is_not_used(rig):
    rig.sets.wanted("http://127.0.0.1:1/")
    await eventually(lambda: rig.answers["http://127.0.0.1:1/"], "an answer")


async def test_other_sets_are_used(rig, server):
    """One that is not used any more is not fetched any more, and those that wait for it are answered."""
    rig.use(server.url, refresh=0.01)
    await rig.names(server.url, "one")
    task = rig.sets.sets[server.url].task
    answers = rig.answers[server.url]
    rig.use()
    await within(asyncio.wait((task,)), "the end of the fetches")
    assert rig.sets.texts == {}
    await eventually(lambda: rig.answers[server.url] > answers, "an answer")
    rig.use(server.url)
    await rig.names(server.url, "one")


async def test_a_shorter_refresh_counts_at_once(rig, server):
    rig.use(server.url)
    await rig.attempted(1)
    rig.use(server.url, refresh=0.01)
    await rig.attempted(4)


async def test_what_a_previous_supervisor_had_fetched(server, caplog):
    await server.down()
    rig = Rig({server.url: key_set("one"), "http://127.0.0.1:1/gone": key_set("x")})
    rig.use(server.url)
    try:
        assert rig.sets.texts == {server.url: key_set("one")}
        assert rig.sets.sets[server.url].entries == 1
        await rig.attempted(1)
        assert rig.sets.texts == {server.url: key_set("one")}
        assert "the keys from before stay in use" in caplog.text
    finally:
        await rig.sets.close()
    caplog.clear()


async def test_a_fault_of_ours_ends_nothing(rig, server, caplog):
    async def broken(url, cas, system_cas):
        raise RuntimeError("out of the blue")

    rig.sets._fetch = broken
    rig.use(server.url, refresh=0.01)
    await rig.attempted(2)
    rig.sets._fetch = fetch
    await rig.names(server.url, "one")
    assert "out of the blue" in caplog.text
    caplog.clear()


async def test_a_query_is_in_no_log(rig, server, caplog):
    caplog.set_level("INFO")
    rig.use(f"{server.url}?secret=s3cr3t")
    await rig.attempted(1)
    server.keys = "nonsense"
    rig.sets.wanted(f"{server.url}?secret=s3cr3t")
    await rig.attempted(2)
    assert server.url in caplog.text
    assert "s3cr3t" not in caplog.text
    caplog.clear()


# --- one fetch --------------------------------------------------------------------------------------------------------


async def fails(url, cas=(), system_cas=True):
    """Why a fetch fails."""
    with pytest.raises(NotFetched) as error:
        await fetch(url, cas, system_cas)
    return str(error.value)


def answering(server, text="", **keys):
    async def answer(request):
        return web.Response(text=text, **keys)

    server.answer = answer


async def test_fetch(server):
    assert await fetch(server.url, (), True) == key_set("one")


async def test_no_server():
    assert await fails(f"http://127.0.0.1:{free_port()}/") == "cannot connect: connection refused"
    assert (await fails("http://no-such-host.invalid/")).startswith("cannot connect: ")


@pytest.mark.parametrize("status", [204, 206, 304, 400, 401, 404, 500, 503])
async def test_statuses(server, status):
    answering(server, status=status)
    assert await fails(server.url) == f"the answer has status {status}"


async def test_size(server):
    answering(server, "x" * MAX_BYTES)
    assert len(await fetch(server.url, (), True)) == MAX_BYTES
    answering(server, "x" * (MAX_BYTES + 1))
    assert await fails(server.url) == f"the answer has more than {MAX_BYTES} bytes"


async def test_an_answer_without_end(server):
    async def endless(request):
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b"x" * 65536)
        return response

    server.answer = endless
    assert await fails(server.url) == f"the answer has more than {MAX_BYTES} bytes"


async def test_compression_is_not_undone(server):
    """A bomb stays small."""

    async def compressed(request):
        response = web.Response(body=b"\x1f\x8b\xff", headers={"Content-Encoding": "gzip"})
        return response

    server.answer = compressed
    assert await fails(server.url) == "the answer is not UTF-8"
    assert server.asked[-1].headers["Accept-Encoding"] == "identity"


async def test_a_server_that_never_answers(server, monkeypatch):
    monkeypatch.setattr(key_fetching, "TIMEOUT_SECONDS", 0.05)
    gone = asyncio.Event()

    async def silent(request):
        try:
            await asyncio.Event().wait()
        finally:
            gone.set()

    server.answer = silent
    assert await fails(server.url) == "no answer within 0.05 s"


async def test_answers_that_break_off():
    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1")
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        assert "broke off" in await fails(f"http://127.0.0.1:{port}/")


async def test_redirects(server):
    async def redirect(request):
        if request.path == "/new":
            return web.Response(text=key_set("new"))
        return web.Response(status=302, headers={"Location": "/new"})

    server.answer = redirect
    assert await fetch(server.url, (), True) == key_set("new")


async def test_redirects_that_are_not_followed(server):
    answering(server, status=302, headers={"Location": "https://127.0.0.1:1/"})
    assert await fails(server.url) == "it redirects to another scheme"
    answering(server, status=302, headers={"Location": "file:///etc/passwd"})
    assert await fails(server.url) == "it redirects to another scheme"
    answering(server, status=302, headers={"Location": "/keys.json"})
    assert await fails(server.url) == "it redirects more than 3 times"
    answering(server, status=302)
    assert await fails(server.url) == "the answer has status 302"


async def test_proxies_of_the_environment_are_not_used(server, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    assert await fetch(server.url, (), True) == key_set("one")


async def test_tls(tmp_path):
    authority = Authority(tmp_path)
    pair = authority.issue("127.0.0.1")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.cert, pair.key)
    server = await Server.start(context)
    try:
        assert await fetch(server.url, (authority.ca.read_text(),), False) == key_set("one")
        assert await fetch(server.url, (authority.ca.read_text(),), True) == key_set("one")
        assert "its certificate is not accepted" in await fails(server.url)
        other = Authority(tmp_path, "Other")
        assert "its certificate is not accepted" in await fails(server.url, (other.ca.read_text(),), False)
        named = server.url.replace("127.0.0.1", "localhost")
        assert "its certificate is not accepted" in await fails(named, (authority.ca.read_text(),), False)
    finally:
        await server.down()


@pytest.mark.parametrize("turns", range(6))
async def test_a_set_that_is_wanted_when_all_end_ends_as_well(server, turns):
    """At whatever moment the end comes: shutting down waits for it."""
    rig = Rig()
    rig.use(server.url)
    await rig.names(server.url, "one")
    await turn()
    rig.sets.wanted(server.url)
    for _ in range(turns):
        await turn()
    await within(rig.sets.close(), "the end")
