"""Where tokens are found, and what is left of a request without them."""

from urllib.parse import parse_qsl, quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.edge.access.granted import Granted
from gateway.edge.access.jws import BadToken
from gateway.edge.access.tokens import Edits, InQuery, Places
from gateway.edge.refused import Refused
from gateway.protocol.heads import RequestHead
from tests.support.tokens import hs256

from .jwts import HEADER, jwt, request

COOKIE = ("cookie", "token")
QUERY = ("query", "token")
SUBPROTOCOL = ("subprotocol", "bearer")


def found(*fields, sources=(HEADER,), target=b"/", remove=False):
    return Places(sources, remove).find(RequestHead(fields), target)


def token(*fields, **how):
    return found(*fields, **how).token


def authorization(*values):
    return [(b"Authorization", value) for value in values]


def cookies(*values):
    return [(b"Cookie", value) for value in values]


def offered(*values):
    return [(b"Sec-WebSocket-Protocol", value) for value in values]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"Bearer a.b.c", b"a.b.c"),
        (b"bearer a.b.c", b"a.b.c"),
        (b"BEARER \t a.b.c", b"a.b.c"),
        (b"Bearer", b""),
        (b"Bearera.b.c", b""),
        (b"Basic YTpi", b""),
        (b"Bearer a.b.c, Basic YTpi", b"a.b.c, Basic YTpi"),  # malformed
        (b"", b""),
    ],
)
def test_authorization(value, expected):
    assert token(*authorization(value)) == expected


def test_several_authorization_fields():
    with pytest.raises(BadToken):
        found(*authorization(b"Basic x", b"Bearer a.b.c"))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([b"token=a"], b"a"),
        ([b"x=1; token=a; y=2"], b"a"),
        ([b"x=1;token = a ;y"], b"a"),
        ([b"x=1", b"token=a"], b"a"),
        ([b'token="a"'], b"a"),
        ([b"Token=a"], b"a"),
        ([b"%74oken=a"], b"a"),
        ([b"token=a; token=a"], b"a"),
        ([b"token="], b""),
        ([b"token"], b""),
        ([b"tokens=a; xtoken=b"], b""),
        ([b"x=token=a"], b""),
        ([], b""),
    ],
)
def test_cookies(values, expected):
    assert token(*cookies(*values), sources=(COOKIE,)) == expected


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/x?token=a", b"a"),
        (b"/x?y=1&token=a&z", b"a"),
        (b"/x?y=1;token=a", b"a"),
        (b"/x?%74oken=a", b"a"),
        (b"/x?TOKEN=a%2Eb", b"a.b"),
        (b"/x?token[]=a", b"a"),
        (b"/x?token%5B0%5D=a", b"a"),
        (b"/x?token=a&token=a&Token=%61", b"a"),
        (b"/x?token=", b""),
        (b"/x?token", b""),
        (b"/x?y=?token=a", b""),
        (b"/token=a", b""),
        (b"/x?xtoken=a&token2=b", b""),
        (b"/x?", b""),
    ],
)
def test_query(target, expected):
    assert token(sources=(QUERY,), target=target) == expected


@pytest.mark.parametrize(
    ("values", "expected", "left", "marker"),
    [
        ([b"bearer, a.b.c, chat"], b"a.b.c", b"chat", b"bearer"),
        ([b"chat, bearer, a.b.c"], b"a.b.c", b"chat", b"bearer"),
        ([b"bearer", b"a.b.c, chat,mqtt"], b"a.b.c", b"chat, mqtt", b"bearer"),
        ([b"bearer,a.b.c"], b"a.b.c", b"", b"bearer"),
        ([b"chat, bearer.a.b.c"], b"a.b.c", b"chat", b""),
        ([b"bearer.a.b.c"], b"a.b.c", b"", b""),
        ([b"bearer, a.b.c, bearer.a.b.c, x"], b"a.b.c", b"x", b"bearer"),
        ([b"chat, bearer"], b"", b"chat", b"bearer"),
        ([b"chat"], b"", None, b""),
        ([b"bearers, a.b.c"], b"", None, b""),
        ([b"Bearer, a.b.c"], b"", None, b""),
        ([], b"", None, b""),
    ],
)
def test_subprotocols(values, expected, left, marker):
    """The backend never gets these."""
    place = found(*offered(*values), sources=(SUBPROTOCOL,))
    assert (place.token, place.marker) == (expected, marker)
    assert dict(place.replaced) == ({} if left is None else {b"sec-websocket-protocol": left})


@pytest.mark.parametrize(
    ("sources", "fields", "target"),
    [
        ([COOKIE], cookies(b"token=a; token=b"), b"/"),
        ([COOKIE], cookies(b"token=a", b"token=b"), b"/"),
        ([COOKIE], cookies(b"token=a; TOKEN=b"), b"/"),
        ([COOKIE], cookies(b"token=a; tok%65n=b"), b"/"),
        ([COOKIE], cookies(b"token=a; token="), b"/"),
        ([COOKIE], cookies(b"token=a; x=1 token=b"), b"/"),
        ([COOKIE], cookies(b"token=a; x=1,token=b"), b"/"),
        ([COOKIE], cookies(b"token=a token=b"), b"/"),
        ([COOKIE], cookies(b"token=a b"), b"/"),
        ([("cookie", "a_token")], cookies(b"a_token=a; A.Token=b"), b"/"),
        ([("query", "a_token")], [], b"/?a_token=a&a.token=b"),
        ([("query", "a_token")], [], b"/?a_token=a&a+token=b"),
        ([("query", "a_token")], [], b"/?a_token=a&a[token=b"),
        ([("query", "a.token")], [], b"/?a.token=a&a_token[x]=b"),
        ([QUERY], [], b"/?token=a&token%00x=b"),
        ([QUERY], [], b"/?token=a&token=b"),
        ([QUERY], [], b"/?token=a&tok%65n=b"),
        ([QUERY], [], b"/?token=a&x=1;token=b"),
        ([QUERY], [], b"/?token=a&Token=b"),
        ([QUERY], [], b"/?token=a&token"),
        ([QUERY], [], b"/?token=a&token[]=b"),
        ([QUERY], [], b"/?token=a&+token=b"),
        ([SUBPROTOCOL], offered(b"bearer, a, bearer, b"), b"/"),
        ([SUBPROTOCOL], offered(b"bearer, a, bearer.b"), b"/"),
    ],
)
def test_different_tokens_in_one_place(sources, fields, target):
    with pytest.raises(BadToken) as caught:
        found(*fields, sources=sources, target=target)
    assert str(caught.value).startswith("there are different tokens")


def test_the_first_place_decides():
    fields = authorization(b"Bearer h") + cookies(b"token=c; token=other") + offered(b"bearer, s")
    sources = (HEADER, COOKIE, QUERY, SUBPROTOCOL)
    assert token(*fields, sources=sources, target=b"/?token=q") == b"h"
    assert token(*fields[2:], sources=sources, target=b"/?token=q") == b"q"
    assert token(*fields[2:], sources=sources) == b"s"
    assert token(sources=sources) == b""


@pytest.mark.parametrize(
    ("target", "left"),
    [
        (b"/x?token=a", b"/x"),
        (b"/x?token=a&y=1", b"/x?y=1"),
        (b"/x?y=1&token=a", b"/x?y=1"),
        (b"/x?y=1&token=a&z=%41;w", b"/x?y=1&z=%41;w"),
        (b"/x?y=1;token=a&z", b"/x?y=1&z"),
        (b"/x?token=a&token=a;t%6Fken=a&&y", b"/x?&y"),
        (b"/x?y&&z&token=a", b"/x?y&&z"),
    ],
)
def test_a_query_without_its_token(target, left):
    assert found(sources=(QUERY,), target=target, remove=True).target == left


def test_what_is_not_there_changes_nothing():
    fields = cookies(b"a=1;  b=2") + offered(b"chat,x") + authorization(b"Basic YTpi")
    place = found(*fields, sources=(HEADER, COOKIE, QUERY, SUBPROTOCOL), target=b"/?x=1&&y=token;z", remove=True)
    assert place == (b"", None, {}, b"")


def test_every_copy_is_removed():
    """Of all places, as only one of them was checked."""
    fields = authorization(b"Bearer h") + cookies(b"a=1; token=c", b"token=d; b=2") + offered(b"bearer, s, chat")
    place = found(*fields, sources=(HEADER, COOKIE, QUERY, SUBPROTOCOL), target=b"/?token=q&token=r&x", remove=True)
    assert place.token == b"h"
    assert place.target == b"/?x"
    assert place.replaced == {
        b"authorization": b"",
        b"cookie": b"a=1; b=2",
        b"sec-websocket-protocol": b"chat",
    }


def test_two_names_in_one_place():
    sources = (COOKIE, ("cookie", "id"), QUERY, ("query", "id"), SUBPROTOCOL, ("subprotocol", "jwt"))
    place = found(
        *cookies(b"id=i; a=1; token=c"),
        *offered(b"jwt, x, bearer.y, chat"),
        sources=sources,
        target=b"/?id=q&x&token=z",
        remove=True,
    )
    assert (place.token, place.target) == (b"c", b"/?x")
    assert place.replaced == {b"cookie": b"a=1", b"sec-websocket-protocol": b"chat"}


def test_a_request_keeps_its_token_unless_told():
    fields = cookies(b"a=1; token=c") + authorization(b"Basic YTpi")
    assert found(*fields, sources=(COOKIE, HEADER, QUERY), target=b"/?token=c&x") == (b"c", None, {}, b"")


def test_a_backend_gets_no_token_that_was_not_checked():
    """It may look for one elsewhere first."""
    fields = authorization(b"Bearer h") + cookies(b"a=1; token=c") + offered(b"bearer, s, chat")
    place = found(*fields, sources=(HEADER, COOKIE, QUERY, SUBPROTOCOL), target=b"/?token=q&token=h&x")
    assert (place.token, place.target) == (b"h", b"/?x")
    assert place.replaced == {b"cookie": b"a=1", b"sec-websocket-protocol": b"chat"}
    assert found(*fields, sources=(COOKIE, HEADER)).replaced == {b"authorization": b""}


@pytest.mark.parametrize(
    ("values", "left"),
    [
        ([b"x=1, token=c; y=2"], b"y=2"),
        ([b"y=2; x=1 token=c"], b"y=2"),
        ([b"y=2; a.token=1; token=c"], b"y=2; a.token=1"),
    ],
)
def test_cookies_without_any_reading_of_the_token(values, left):
    assert found(*cookies(*values), sources=(COOKIE,), remove=True).replaced == {b"cookie": left}


def test_what_the_method_makes_of_it():
    text = hs256().encode()
    method = jwt(sources=(("query", "token"), SUBPROTOCOL), remove_token=True)
    granted = method.check(request(target=b"/x?token=" + text))
    assert isinstance(granted, Granted)
    assert (granted.target, granted.replaced) == (b"/x", {})
    granted = method.check(request(*offered(b"bearer, " + text)))
    assert (granted.target, granted.replaced, granted.marker) == (None, {b"sec-websocket-protocol": b""}, b"bearer")
    with pytest.raises(Refused) as caught:
        method.check(request(target=b"/?token=" + text + b"&token=x"))
    assert caught.value.status == 401
    assert text.decode() not in caught.value.reason


NAMES = st.sampled_from(["token", "Token", "tok%65n", "token%20", "xtoken", "x", "", "token[]", "%zz", "toke"])
VALUES = st.sampled_from(["a", "b", "%61", "", "a=b", "token=a"])
QUERIES = st.lists(st.tuples(NAMES, VALUES, st.sampled_from("&;")), max_size=6)


@given(QUERIES)
def test_what_is_checked_is_what_is_sent(pairs):
    """However a backend reads the query: it finds the token that was checked, or none."""
    query = "".join(f"{name}={value}{separator}" for name, value, separator in pairs)
    target = f"/?{query}".encode()
    try:
        kept = found(sources=(QUERY,), target=target)
    except BadToken:
        pass
    else:
        assert tokens_in(query) <= {kept.token.decode()}
    edits = Edits(target)
    InQuery(b"token").take_out(RequestHead(), edits)
    rest = edits.target.decode().removeprefix("/").removeprefix("?")
    assert tokens_in(rest) == set()
    others = [f"{name}={value}" for name, value, _ in pairs if not is_token(name)]
    assert [part for part in rest.replace(";", "&").split("&") if part] == [part for part in others if part]


def is_token(name: str) -> bool:
    return unquote(name).strip().lower().removesuffix("[]") == "token"


def tokens_in(query: str) -> set[str]:
    """What backends take for the token: those that split at ``&`` alone, and those that split at ``;`` too."""
    return {
        value.partition(";")[0]
        for text in (query, query.replace(";", "&"))
        for name, value in parse_qsl(text, keep_blank_values=True)
        if is_token(quote(name))
    }
