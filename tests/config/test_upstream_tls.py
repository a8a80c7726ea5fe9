"""TLS to backends, as the configuration has it; and the files that it names."""

import os

import pytest

from gateway.config import ConfigError, UpstreamTls, load, load_with_doubts
from tests.support.certificates import DAY, Authority

from .files import MINIMAL, complaints, config_of


def with_tls(section):
    return MINIMAL.replace('["127.0.0.1:9001"]}', f'["127.0.0.1:9001"], tls: {section}}}')


def tls_of(section):
    return config_of(with_tls(section)).upstreams["chat"].tls


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def own(authority):
    return authority.issue("gateway", client=True)


def mistakes_of(tmp_path, section):
    file = tmp_path / "gateway.yaml"
    file.write_text(with_tls(section))
    try:
        load(file, {})
    except ConfigError as error:
        return [line.removeprefix(f"{file}:") for line in str(error).split("\n")]
    return []


@pytest.mark.parametrize("section", ["off", '"off"', "false"])
def test_without(section):
    assert tls_of(section) is None


@pytest.mark.parametrize("section", ["true", "{}"])
def test_defaults(section):
    tls = tls_of(section)
    assert tls == UpstreamTls()
    assert (tls.ca, tls.server_name, tls.cert, tls.key, tls.verify) == (None, None, None, None, True)


@pytest.mark.parametrize(
    ("name", "parsed"), [("Chat.Internal", "chat.internal"), ("10.0.0.5", "10.0.0.5"), ("'[::0:1]'", "::1")]
)
def test_the_name_in_the_certificate(name, parsed):
    assert tls_of(f"{{server_name: {name}}}").server_name == parsed


def test_a_unix_socket_has_a_name_with_server_name():
    assert complaints(with_tls("{server_name: a}").replace("127.0.0.1:9001", "unix:/run/a")) == []
    assert complaints(with_tls("{verify: false}").replace("127.0.0.1:9001", "unix:/run/a")) == []


@pytest.mark.parametrize("section", ["true", "{ca: a.pem}"])
def test_a_unix_socket_without_one(section):
    assert complaints(with_tls(section).replace("127.0.0.1:9001", "unix:/run/a")) == [
        "gateway.yaml:3:21: upstreams.chat.backends[0]: unix:/run/a has no host name for its certificate"
        " (`server_name` in `tls`: the name in the backend's certificate)"
    ]


@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        (
            "5",
            "3:45: upstreams.chat.tls: expected a mapping, true or off, found the number 5"
            " (such as {ca: ca.pem}, true for the system's CAs and the backend's name, or off)",
        ),
        (
            "{verify: 'no'}",
            '3:54: upstreams.chat.tls.verify: expected true or false, found the text "no" (without quotes)',
        ),
        ("{ca: 5}", "3:50: upstreams.chat.tls.ca: expected a path, found the number 5 (the path of a PEM file)"),
        (
            "{server_name: a b}",
            '3:59: upstreams.chat.tls.server_name: "a b" is not a host name'
            " (letters, digits and hyphens between dots, at most 253 characters)",
        ),
        (
            "{key: a.key}",
            "3:51: upstreams.chat.tls.key: there is no `cert` for this key (`cert` with the certificate's path)",
        ),
    ],
)
def test_mistakes(section, complaint):
    assert complaints(with_tls(section)) == [f"gateway.yaml:{complaint}"]


# --- files ------------------------------------------------------------------------------------------------------------


def test_good_files(tmp_path, authority, own):
    assert mistakes_of(tmp_path, f"{{ca: {authority.ca}, cert: {own.cert}, key: {own.key}}}") == []


def test_paths_are_relative_to_the_file(tmp_path, authority, monkeypatch):
    (tmp_path / "ca.pem").write_bytes(authority.ca.read_bytes())
    (tmp_path / "gateway.yaml").write_text(with_tls("{ca: ca.pem}"))
    monkeypatch.chdir("/")
    assert load(tmp_path / "gateway.yaml", {}).upstreams["chat"].tls.ca == str(tmp_path / "ca.pem")


def test_a_key_in_the_certificates_file(tmp_path, own):
    both = tmp_path / "both.pem"
    both.write_bytes(own.key.read_bytes() + own.cert.read_bytes())
    assert mistakes_of(tmp_path, f"{{cert: {both}}}") == []
    assert mistakes_of(tmp_path, f"{{cert: {own.cert}}}") == [
        f"3:52: upstreams.chat.tls.cert: {own.cert} holds no private key"
        " (the key in the same file, or `key` with the path of its own)"
    ]


def test_files_that_are_missing_or_something_else(tmp_path, own):
    (tmp_path / "text.pem").write_text("no certificate\n")
    os.mkfifo(tmp_path / "fifo")
    assert mistakes_of(tmp_path, "{ca: none.pem, cert: text.pem, key: fifo}") == [
        f"3:50: upstreams.chat.tls.ca: there is no file {tmp_path}/none.pem"
        " (a PEM file with the certificates of the CAs that are trusted)",
        f"3:66: upstreams.chat.tls.cert: {tmp_path}/text.pem holds no certificate"
        " (a PEM file that begins with the certificate, followed by those of its issuers)",
        f"3:81: upstreams.chat.tls.key: {tmp_path}/fifo cannot be read: not a regular file"
        " (a PEM file with the private key of the certificate)",
    ]


def test_a_key_of_another_certificate(tmp_path, authority, own):
    other = authority.issue("other", client=True)
    (mistake,) = mistakes_of(tmp_path, f"{{cert: {own.cert}, key: {other.key}}}")
    column = 51 + len(f"{own.cert}, key: ")
    assert mistake == (
        f"3:{column + 1}: upstreams.chat.tls.key: the key in {other.key} is not that of the certificate in {own.cert}"
        " (a PEM file with the private key of the certificate)"
    )


@pytest.mark.parametrize("kind", ["-----BEGIN ENCRYPTED PRIVATE KEY-----", "Proc-Type: 4,ENCRYPTED\nPRIVATE KEY-----"])
def test_an_encrypted_key_is_not_asked_for(tmp_path, own, kind):
    (tmp_path / "key.pem").write_text(f"{kind}\nAAAA\n")
    (mistake,) = mistakes_of(tmp_path, f"{{cert: {own.cert}, key: key.pem}}")
    assert mistake.endswith(
        f"the key in {tmp_path}/key.pem is encrypted (a key without a password, in a file that others cannot read)"
    )


@pytest.mark.parametrize(
    ("key", "expected"),
    [("ca", "bad.pem cannot be read as certificates: "), ("cert", "bad.pem and its key cannot be used: ")],
)
def test_damaged_files(tmp_path, own, key, expected):
    lines = own.cert.read_text().splitlines(keepends=True)
    (tmp_path / "bad.pem").write_text("".join([lines[0], "AAAA" + lines[1], *lines[2:]]))
    more = f", key: {own.key}" if key == "cert" else ""
    (mistake,) = mistakes_of(tmp_path, f"{{{key}: bad.pem{more}}}")
    assert expected in mistake


def test_a_file_that_may_not_be_read(tmp_path, authority, monkeypatch):
    def refuse(path, *arguments):
        raise PermissionError(13, "Permission denied", path)

    file = tmp_path / "gateway.yaml"
    file.write_text(with_tls(f"{{ca: {authority.ca}}}"))
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    assert f"this user may not read {authority.ca} (read permission for the gateway's user)" in str(caught.value)


def test_an_old_certificate_is_warned_of(tmp_path, authority):
    old = authority.issue("old", client=True, starts=-3 * DAY, ends=-DAY)
    file = tmp_path / "gateway.yaml"
    file.write_text(with_tls(f"{{cert: {old.cert}, key: {old.key}}}"))
    (doubt,) = load_with_doubts(file, {})[1]
    assert str(doubt).startswith(f"{file}:3:52: upstreams.chat.tls.cert: warning: the certificate expired on 20")


def test_no_verification_is_warned_of(tmp_path):
    file = tmp_path / "gateway.yaml"
    file.write_text(with_tls("{verify: false}"))
    (doubt,) = load_with_doubts(file, {})[1]
    assert str(doubt) == (
        f"{file}:3:54: upstreams.chat.tls.verify: warning: certificates of backends are not verified: anyone on the way"
        " can read and change all (true, with `ca` for the backends' own CA and `server_name` for the name in their"
        " certificates)"
    )
