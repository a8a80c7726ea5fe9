"""Which certificate a name gets, and what backends hear of a client's."""

from __future__ import annotations

import hashlib
import ssl

import pytest

from gateway.config.certificates import read_pair
from gateway.config.settings import Certificate, ListenerTls
from gateway.edge.tls.names import ServerNames
from gateway.edge.tls.peers import fields_of
from gateway.edge.tls.secrets import KeyLog
from gateway.protocol.tls.hello import server_name_of
from tests.support.certificates import Authority, Files

from .ends import first_flight


def certificate(pair: Files) -> Certificate:
    found = read_pair(str(pair.cert), str(pair.key))
    return Certificate(found.names, found.kind, found.chain, found.key)


def names(key_log: KeyLog, *pairs: Files, ca: str | None = None, required: bool = True) -> ServerNames:
    return ServerNames(ListenerTls(tuple(map(certificate, pairs)), "1.2", ca, required), key_log)


def test_names_choose_contexts(key_log: KeyLog, authority: Authority) -> None:
    first = authority.issue("a.example", "b.example", file="one")
    wild = authority.issue("*.example", file="two")
    chosen = names(key_log, first, wild)
    default = chosen.choose(None)
    assert chosen.choose("a.example") is chosen.choose("b.example") is chosen.choose("a.example.") is default
    assert chosen.choose("c.example") is not default
    assert chosen.choose("x.c.example") is chosen.choose("example") is chosen.choose("") is default


def test_the_second_kind_of_key_for_the_same_name_is_in_the_same_context(key_log: KeyLog, authority: Authority) -> None:
    pairs = [authority.issue("a.example", kind=kind, file=f"both-{kind}") for kind in ("p256", "rsa")]
    chosen = names(key_log, *pairs)
    assert chosen.choose("a.example") is chosen.choose(None)


@pytest.mark.parametrize(("required", "mode"), [(True, ssl.CERT_REQUIRED), (False, ssl.CERT_OPTIONAL)])
def test_client_certificates(key_log: KeyLog, authority: Authority, required: bool, mode: ssl.VerifyMode) -> None:
    pair = authority.issue("a.example", file="mutual")
    ca = authority.ca.read_text()
    assert names(key_log, pair, ca=ca, required=required).choose(None).verify_mode == mode
    assert names(key_log, pair).choose(None).verify_mode == ssl.CERT_NONE


def test_what_openssl_does_not_take_is_an_error(key_log: KeyLog, authority: Authority) -> None:
    pair = certificate(authority.issue("a.example", file="good"))
    other = certificate(authority.issue("b.example", file="other"))
    for wrong in (pair._replace(key=other.key), pair._replace(key="rubbish"), pair._replace(chain="rubbish")):
        with pytest.raises(ssl.SSLError):
            ServerNames(ListenerTls((wrong,), "1.2", None, True), key_log)


# --- names in a ClientHello -------------------------------------------------------------------------------------------


def hello(name: str | None) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    return first_flight(context, name)[5:]


@pytest.mark.parametrize("name", ["example.com", "Example.COM", "a-1.b_c.example", "x" * 60 + ".example"])
def test_the_name_in_a_hello(name: str) -> None:
    assert server_name_of(hello(name)) == name.lower()


def test_no_name_in_a_hello() -> None:
    assert server_name_of(hello(None)) is None
    assert server_name_of(b"") is None


def test_a_hello_that_is_cut_or_changed_anywhere_is_none_or_a_name() -> None:
    """OpenSSL refuses it: what matters is that nothing is raised."""
    whole = hello("example.com")
    for at in range(len(whole)):
        assert server_name_of(whole[:at]) in (None, "example.com")
        for value in (0, 255):
            changed = bytearray(whole)
            changed[at] = value
            name = server_name_of(bytes(changed))
            assert name is None or name.isascii()


@pytest.mark.parametrize("name", [b"a b", b"caf\xc3\xa9", b"a\0b", b"", b"x" * 300])
def test_names_that_are_none(name: bytes) -> None:
    whole = hello("example.com")
    at = whole.index(b"example.com")
    listed = b"\0" + len(name).to_bytes(2, "big") + name
    extension = (len(listed) + 2).to_bytes(2, "big") + len(listed).to_bytes(2, "big") + listed
    start = at - 7
    changed = bytearray(whole[:start] + extension + whole[at + 11 :])
    assert server_name_of(bytes(changed)) is None


# --- fields about a client's certificate ------------------------------------------------------------------------------


def test_values_are_escaped() -> None:
    described = {
        "subject": (
            (("countryName", "DE"),),
            (("organizationName", 'A, B + "C" <d>; \\ e'),),
            (("commonName", " Jürgen\r\nX-Admin: yes#"), ("serialNumber", "7")),
        ),
        "subjectAltName": (("DNS", "a.example"), ("URI", "spiffe://a/b,DNS:admin"), ("DirName", ((("x", "y"),),))),
    }
    lines = fields_of(b"certificate", described).split(b"\r\n")
    assert lines == [
        b"X-Client-Cert-Subject: CN=\\ J\\C3\\BCrgen\\0D\\0AX-Admin: yes#+serialNumber=7,"
        b'O=A\\, B \\+ \\"C\\" \\<d\\>\\; \\\\ e,C=DE',
        b"X-Client-Cert-San: DNS:a.example, URI:spiffe://a/b\\,DNS:admin",
        b"X-Client-Cert-Fingerprint: " + hashlib.sha256(b"certificate").hexdigest().encode(),
        b"",
    ]


def test_what_is_too_long_is_left_out() -> None:
    described = {"subject": ((("commonName", "x" * 5000),),), "subjectAltName": (("DNS", "a.example"),)}
    assert b"Subject" not in fields_of(b"", described)
    assert b"X-Client-Cert-San: DNS:a.example\r\n" in fields_of(b"", described)
