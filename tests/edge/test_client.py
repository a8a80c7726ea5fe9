"""Who the client is: the peer, or whom trusted proxies say."""

import json
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.edge.networks import UNIX, network_of
from gateway.edge.trust import Peer, Trust
from gateway.protocol.heads import RequestHead
from gateway.protocol.proxy import Header

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
        # The bare address, whichever way it is written.
        ([b"[2001:db9::9]"], "2001:db9::9"),
        ([b"2001:DB9:0::9"], "2001:db9::9"),
        ([b"203.0.113.7:51008"], "203.0.113.7"),
        ([b"[2001:db9::5]:443"], "2001:db9::5"),
        ([b'"[2001:db9::5]:443"'], "2001:db9::5"),
        ([b'"203.0.113.7"'], "203.0.113.7"),
        ([b"::ffff:192.0.2.9"], "192.0.2.9"),
        ([b"::FFFF:c000:0209"], "192.0.2.9"),
        ([b"[::ffff:192.0.2.9]:80"], "192.0.2.9"),
        ([b"fe80::1%eth0"], "fe80::1"),
        ([b"[fe80::1%eth0]:80"], "fe80::1"),
        ([b"192.0.2.9, 10.4.4.4:80"], "192.0.2.9"),
        ([b"192.0.2.9, ::ffff:10.0.0.6"], "192.0.2.9"),
        ([b"192.0.2.9, [2001:db8::5]:443, [::ffff:10.0.0.6]:1"], "192.0.2.9"),
        ([b"10.4.4.4:80, [2001:DB8::5]:443"], "10.4.4.4"),
        # An item that is not an address ends the chain: nothing before it can be believed.
        ([b"unknown"], "10.1.2.3:6000"),
        ([b"192.0.2.9, garbage"], "10.1.2.3:6000"),
        ([b"192.0.2.9, garbage, 10.4.4.4"], "10.4.4.4"),
        ([b"192.0.2.9, 1.2.3.4.5"], "10.1.2.3:6000"),
        ([b"192.0.2.9, 10.4.4"], "10.1.2.3:6000"),
        ([b"192.0.2.9, 010.4.4.4"], "10.1.2.3:6000"),
        ([b"192.0.2.9:"], "10.1.2.3:6000"),
        ([b"192.0.2.9:http"], "10.1.2.3:6000"),
        ([b"192.0.2.9:123456"], "10.1.2.3:6000"),
        ([b"[192.0.2.9"], "10.1.2.3:6000"),
        ([b"[2001:db9::9]x"], "10.1.2.3:6000"),
        ([b'"192.0.2.9'], "10.1.2.3:6000"),
        ([b'"'], "10.1.2.3:6000"),
        ([b"_hidden:80"], "10.1.2.3:6000"),
        ([b"fe80::1%" + b"x" * 100], "10.1.2.3:6000"),
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


ADDRESSES = st.ip_addresses() | st.sampled_from([ip_address("10.9.9.9"), ip_address("2001:db8::9")])
SPELLINGS = {
    4: ["{}", "{}:80", '"{}"', '"{}:65535"', "::ffff:{}", "[::ffff:{}]", "[::ffff:{}]:1", '"[::ffff:{}]:1"', "[{}]"],
    6: ["{}", "[{}]", "[{}]:443", '"[{}]:443"', "{}%eth0", "[{}%eth0]:443"],
}


@given(
    st.lists(ADDRESSES | st.sampled_from([ip_address("10.9.9.9"), ip_address("2001:db8::9")]), max_size=5), st.data()
)
def test_any_spelling_of_an_address_is_that_address(chain, data):
    chain = [getattr(address, "ipv4_mapped", None) or address for address in chain]
    spelled = [data.draw(st.sampled_from(SPELLINGS[address.version])).format(address) for address in chain]
    plain = [str(address) for address in chain]
    assert client(PROXY, ", ".join(spelled).encode()) == client(PROXY, ", ".join(plain).encode())
    if chain and not TRUST.trusts(plain[-1]):
        assert client(PROXY, ", ".join(spelled).encode()) == plain[-1]


def test_what_is_known_of_addresses_is_bounded():
    trust = Trust((ip_network("10.0.0.0/8"),))
    for number in range(5000):
        address = f"{number % 2 * 10}.{number >> 8}.{number % 256}.1"
        assert trust.trusts(address) == (number % 2 == 1)
    assert trust.trusts("10.9.9.9")
    assert len(trust._known) <= 1024


@pytest.mark.parametrize("network", ["10.0.0.0/8", "::ffff:10.0.0.0/104", "::ffff:a00:0/104"])
@pytest.mark.parametrize("address", ["10.0.0.6", "::ffff:10.0.0.6", "::ffff:a00:6"])
def test_an_ipv4_network_is_the_same_written_as_ipv6(network, address):
    trust = Trust((ip_network(network),))
    assert trust.trusts(address)
    assert trust.peer((address, 1, 0, 0)).trusted
    assert not trust.trusts("11.0.0.6")
    assert not trust.trusts("::ffff:11.0.0.6")


def test_a_network_of_all_addresses_of_one_family_holds_none_of_the_other():
    assert not Trust((ip_network("::/0"),)).trusts("::ffff:192.0.2.7")
    assert Trust((ip_network("::/0"),)).trusts("2001:db8::1%eth0")


def test_a_network_of_one_family_is_not_asked_about_the_other():
    trust = Trust((ip_network("0.0.0.0/0"),))
    assert trust.trusts("192.0.2.7")
    assert not trust.trusts("::1")
    assert not trust.trusts("not an address")
    assert str(Peer("::1", 80, False)) == "[::1]:80"


# --- behind a PROXY header --------------------------------------------------------------------------------------------

CLIENT, SERVER = ("203.0.113.7", 51000), ("192.0.2.1", 443)


@pytest.mark.parametrize(
    ("header", "text", "trusted", "destination", "is_known"),
    [
        (Header(1, CLIENT, SERVER, False), "203.0.113.7:51000", False, SERVER, True),
        (Header(1, ("10.4.4.4", 1), SERVER, False), "10.4.4.4:1", True, SERVER, True),
        (Header(1, ("2001:db8::7", 1), ("2001:db8::1", 2), False), "[2001:db8::7]:1", True, ("2001:db8::1", 2), True),
        (Header(1, None, None, True), "10.1.2.3:6000", True, None, True),
        (Header(1, None, None, False), "10.1.2.3:6000", False, None, False),
    ],
)
def test_the_peer_that_a_header_names(header, text, trusted, destination, is_known):
    peer = TRUST.behind(PROXY, header)
    assert (str(peer), peer.trusted, peer.destination, peer.is_known) == (text, trusted, destination, is_known)
    assert TRUST.again(peer) == peer
    assert TRUST.unpacked(json.loads(json.dumps(peer.packed()))) == peer
    # Another configuration may trust others, but never one without an address.
    assert Trust((ip_network("0.0.0.0/0"), ip_network("::/0"))).again(peer).trusted == is_known
    assert not Trust(()).again(peer).trusted


@pytest.mark.parametrize("address", [("192.0.2.7", 5000), ("10.9.9.9", 1), ("2001:db8::1", 5000, 0, 0), ""])
def test_a_peer_that_moves(address):
    peer = TRUST.peer(address)
    assert TRUST.unpacked(json.loads(json.dumps(peer.packed()))) == peer


def test_networks_behind_a_proxy():
    """A named client counts by its network, one without a name by the proxy's address."""
    other_proxy = Peer("10.1.2.4", 6000, True)
    named = [TRUST.behind(proxy, Header(1, CLIENT, SERVER, False)) for proxy in (PROXY, other_proxy)]
    assert len({network_of(peer) for peer in named} | {network_of(Peer("203.0.113.200", 1, False))}) == 1
    unnamed = [TRUST.behind(proxy, Header(1, None, None, False)) for proxy in (PROXY, other_proxy)]
    assert [network_of(peer) for peer in unnamed] == [network_of(PROXY), network_of(other_proxy)]
    assert network_of(PROXY) != network_of(other_proxy)


def test_a_client_that_is_not_known_names_nobody():
    unnamed = TRUST.behind(PROXY, Header(1, None, None, False))
    assert client(unnamed, b"192.0.2.9") == "10.1.2.3:6000"
    over_unix = TRUST.behind(TRUST.peer(""), Header(1, None, None, False))
    assert (client(over_unix, b"192.0.2.9"), network_of(over_unix)) == ("unix", UNIX)
