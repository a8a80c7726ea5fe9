"""Who the client is: the peer, or whom trusted proxies say."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.edge.request import Peer, Trust
from gateway.protocol.http import RequestHead

from .requests import PROXY, STRANGER, TRUST, request_head


@pytest.mark.parametrize(
    ("address", "text", "trusted"),
    [
        (("192.0.2.7", 5000), "192.0.2.7:5000", False),
        (("10.9.9.9", 5000), "10.9.9.9:5000", True),
        (("2001:db8::1", 5000, 0, 0), "[2001:db8::1]:5000", True),
        (("2001:db9::1", 5000, 0, 0), "[2001:db9::1]:5000", False),
        (("::ffff:10.9.9.9", 5000, 0, 0), "10.9.9.9:5000", True),
        (("::ffff:192.0.2.7", 5000, 0, 0), "192.0.2.7:5000", False),
        (("fe80::1%eth0", 5000, 0, 2), "[fe80::1%eth0]:5000", False),
        ("", "unix", True),
        (b"\0abstract", "unix", True),
    ],
)
def test_peers(address, text, trusted):
    peer = TRUST.peer(address)
    assert (str(peer), peer.trusted) == (text, trusted)


def test_nobody_is_trusted_unless_it_is_said():
    trust = Trust(())
    assert not trust.peer(("127.0.0.1", 1)).trusted
    assert not trust.trusts("127.0.0.1")


def client(peer, *values):
    fields = [b"X-Forwarded-For: " + value for value in values]
    return TRUST.client_of(peer, request_head(b"GET / HTTP/1.1", b"Host: a", *fields))


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([], "10.1.2.3:6000"),
        ([b""], "10.1.2.3:6000"),
        ([b"192.0.2.9"], "192.0.2.9"),
        ([b"198.51.100.1, 192.0.2.9"], "192.0.2.9"),
        ([b"192.0.2.9, 10.4.4.4"], "192.0.2.9"),
        ([b"192.0.2.9,10.4.4.4 ,\t10.5.5.5"], "192.0.2.9"),
        ([b"192.0.2.9", b"10.4.4.4"], "192.0.2.9"),
        ([b"1.1.1.1, 192.0.2.9, 2001:db8::7"], "192.0.2.9"),
        ([b"10.4.4.4, 10.5.5.5"], "10.4.4.4"),
        ([b"2001:db9::9"], "2001:db9::9"),
        ([b"[2001:db9::9]"], "[2001:db9::9]"),
        # What is not an address ends the chain: whoever is before it cannot be known.
        ([b"unknown"], "10.1.2.3:6000"),
        ([b"192.0.2.9, garbage"], "10.1.2.3:6000"),
        ([b"192.0.2.9, garbage, 10.4.4.4"], "10.4.4.4"),
        ([b"192.0.2.9, 1.2.3.4.5"], "10.1.2.3:6000"),
        ([b"192.0.2.9, 10.4.4"], "10.1.2.3:6000"),
        ([b"<script>"], "10.1.2.3:6000"),
    ],
)
def test_behind_a_trusted_proxy(values, found):
    assert client(PROXY, *values) == found


@pytest.mark.parametrize("values", [[], [b"1.1.1.1"], [b"10.4.4.4"], [b"garbage"]])
def test_a_stranger_is_the_client_whatever_it_says(values):
    assert client(STRANGER, *values) == "192.0.2.7:5000"


def test_over_a_unix_socket():
    assert client(TRUST.peer(""), b"192.0.2.9") == "192.0.2.9"
    assert client(TRUST.peer("")) == "unix"


@given(st.lists(st.sampled_from([b"10.4.4.4", b"192.0.2.9", b"1.1.1.1", b"2001:db8::1", b"::1"]), max_size=6))
def test_the_last_that_no_trusted_proxy_has(chain):
    head = RequestHead([(b"X-Forwarded-For", b", ".join(chain))])
    strangers = [address for address in chain if address not in (b"10.4.4.4", b"2001:db8::1")]
    expected = strangers[-1] if strangers else chain[0] if chain else b"10.1.2.3:6000"
    assert TRUST.client_of(PROXY, head) == expected.decode()


@given(st.lists(st.binary(max_size=20), max_size=4))
def test_any_bytes(values):
    head = RequestHead([(b"X-Forwarded-For", value) for value in values])
    assert TRUST.client_of(PROXY, head)
    assert TRUST.client_of(STRANGER, head) == str(STRANGER)


def test_a_network_of_one_family_is_not_asked_about_the_other():
    trust = Trust((ip_network("0.0.0.0/0"),))
    assert trust.trusts("192.0.2.7")
    assert not trust.trusts("::1")
    assert not trust.trusts("not an address")
    assert str(Peer("::1", 80, False)) == "[::1]:80"
