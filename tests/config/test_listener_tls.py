"""TLS on listeners, as the configuration has it; and the files that it names."""

import os
import shutil

import pytest

from gateway.config import ConfigError, load, load_with_doubts
from gateway.config.certificates import DAY_SECONDS, Certificates, doubts_about, read_pair
from gateway.config.schema import CertificatePair, ListenerTls
from gateway.config.settings import Settings
from tests.support.certificates import DAY, Authority

from .files import MINIMAL, complaints, config_of


def with_tls(section):
    return MINIMAL.replace('"0.0.0.0:8080"', f'"0.0.0.0:8080", tls: {section}')


def tls_of(section):
    return config_of(with_tls(section)).listen[0].tls


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def chat(authority):
    return authority.issue("chat.example.com", "*.chat.example.com", "10.0.0.1", file="chat")


def mistakes_of(tmp_path, section):
    file = tmp_path / "gateway.yaml"
    file.write_text(with_tls(section))
    try:
        load(file, {})
    except ConfigError as error:
        return [line.removeprefix(f"{file}:") for line in str(error).split("\n")]
    return []


def pairs(*files, more=""):
    listed = ", ".join(f"{{cert: {each.cert}, key: {each.key}}}" for each in files)
    return f"{{certificates: [{listed}]{more}}}"


ONE = "{certificates: [{cert: a.pem, key: a.key}]}"


def test_defaults():
    assert tls_of(ONE) == ListenerTls(
        certificates=(CertificatePair(cert=os.path.abspath("a.pem"), key=os.path.abspath("a.key")),),
    )
    assert (tls_of(ONE).min_version, tls_of(ONE).client_ca, tls_of(ONE).client_required) == ("1.2", None, True)


@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        ("", "listen[0].tls: expected a mapping, found nothing"),
        ("off", "listen[0].tls: expected a mapping, found"),
        ("{}", "listen[0].tls.certificates: this key is required"),
        ("{certificates: []}", "listen[0].tls.certificates: is empty"),
        ("{certificates: [a.pem]}", "listen[0].tls.certificates[0]: expected a mapping"),
        ("{certificates: [{key: a.key}]}", "listen[0].tls.certificates[0].cert: this key is required"),
        (
            "{certificates: [{cert: a.pem}], min_version: '1.1'}",
            'listen[0].tls.min_version: the text "1.1" is not a choice',
        ),
        (
            "{certificates: [{cert: a.pem}], min_version: 1.2}",
            'listen[0].tls.min_version: the number 1.2 is not a choice (in quotes: "1.2")',
        ),
        (
            "{certificates: [{cert: a.pem}], client_required: false}",
            "listen[0].tls.client_required: there is no `client_ca`",
        ),
        ("{certificates: [{cert: a.pem}], client_ca: ca.pem, client_required: maybe}", "expected true or false"),
        ("{certificates: [{cert: a.pem}], ciphers: all}", "listen[0].tls.ciphers: unknown key"),
    ],
)
def test_mistakes(section, complaint):
    (found,) = complaints(with_tls(section))
    assert complaint in found


def test_good_files(tmp_path, authority, chat):
    assert mistakes_of(tmp_path, pairs(chat, more=f", client_ca: {authority.ca}")) == []


def test_paths_are_relative_to_the_file(tmp_path, chat):
    for path in chat:
        shutil.copy(path, tmp_path)
    assert mistakes_of(tmp_path, "{certificates: [{cert: chat.pem, key: chat.key}]}") == []


def test_one_file_with_both(tmp_path, chat):
    both = tmp_path / "both.pem"
    both.write_text(chat.key.read_text() + chat.cert.read_text())
    assert mistakes_of(tmp_path, f"{{certificates: [{{cert: {both}}}]}}") == []
    assert read_pair(str(both), None).names == ("chat.example.com", "*.chat.example.com")


def test_bad_files_are_all_reported_where_they_are_named(tmp_path, authority, chat):
    other = authority.issue("other.example.com", file="other")
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("no certificate")
    section = (
        f"{{certificates: [{{cert: {chat.cert}, key: {other.key}}}, {{cert: {tmp_path}/none.pem, key: {chat.key}}},"
        f" {{cert: {chat.cert}, key: {garbage}}}], client_ca: {garbage}}}"
    )
    found = mistakes_of(tmp_path, section)
    assert [line.split(": ")[1] for line in found] == [
        "listen[0].tls.certificates[0].key",
        "listen[0].tls.certificates[1].cert",
        "listen[0].tls.certificates[2].key",
        "listen[0].tls.client_ca",
    ]
    assert f"the key in {other.key} is not that of the certificate in {chat.cert}" in found[0]
    assert "there is no file" in found[1]
    assert "holds no private key" in found[2]
    assert "holds no certificate" in found[3]


def test_certificates_that_are_not_valid_now_are_warned_of(tmp_path, authority):
    files = [
        authority.issue("gone.example.com", starts=-9 * DAY, ends=-DAY, file="gone"),
        authority.issue("soon.example.com", ends=3 * DAY, file="soon"),
        authority.issue("later.example.com", starts=DAY, file="later"),
        authority.issue("good.example.com", file="good"),
    ]
    file = tmp_path / "gateway.yaml"
    file.write_text(with_tls(pairs(*files)))
    _, found = load_with_doubts(file, {})
    assert [(".".join(map(str, doubt.key)), " ".join(doubt.message.split()[:5])) for doubt in found] == [
        ("listen.0.tls.certificates.0.cert", "warning: the certificate expired on"),
        ("listen.0.tls.certificates.1.cert", "warning: the certificate expires on"),
        ("listen.0.tls.certificates.2.cert", "warning: the certificate is not"),
    ]


def test_doubts_go_by_the_clock(chat):
    pair = read_pair(str(chat.cert), str(chat.key))
    assert list(doubts_about(pair, pair.not_after - 15 * DAY_SECONDS)) == []
    assert [error.message[:36] for error in doubts_about(pair, pair.not_after + 1)] == [
        "warning: the certificate expired on "
    ]


def test_what_workers_get(tmp_path, authority, chat):
    rsa = authority.issue("RSA.example.com.", kind="rsa", file="rsa-names")
    file = tmp_path / "gateway.yaml"
    file.write_text(with_tls(pairs(chat, rsa, more=f", client_ca: {authority.ca}, client_required: false")))
    config = load(file, {})
    certificates = Certificates.read(config)
    tls = Settings.of(config, certificates).listen[0].tls
    assert [(each.names, each.kind) for each in tls.certificates] == [
        (("chat.example.com", "*.chat.example.com"), "ec"),
        (("rsa.example.com",), "rsa"),
    ]
    assert tls.certificates[0].key == chat.key.read_text()
    assert (tls.client_ca, tls.client_required) == (authority.ca.read_text(), False)
    assert certificates.files == [*map(str, (*chat, *rsa)), str(authority.ca)]
    assert "PRIVATE" not in repr(Settings.of(config))
    assert "PRIVATE" not in repr(certificates)


def test_a_certificate_without_alternative_names_has_its_common_name(authority):
    old = authority.issue(subject="old.example.com", file="old")
    assert read_pair(str(old.cert), str(old.key)).names == ("old.example.com",)
