"""Variables in values: `${VAR}` and `${VAR:-default}`."""

import pytest

from gateway.config import ConfigError, load

from .files import MINIMAL, complaints, config_of, with_top


def test_an_unquoted_variable_may_hold_a_number():
    assert config_of(with_top("workers: ${N}"), {"N": "3"}).workers == 3
    assert config_of(with_top("max_tunnels: ${N:-1}000"), {}).max_tunnels == 1000


def test_a_quoted_variable_holds_text():
    assert complaints(with_top('max_tunnels: "${N}"'), {"N": "3"}) == [
        'gateway.yaml:1:14: max_tunnels: expected auto or a whole number, found the text "3"'
        " (auto, or digits without quotes)"
    ]


def test_a_scalar_with_a_tag_keeps_its_type():
    assert config_of(with_top("access_log: {path: !!str '${N}'}"), {"N": "3"}).access_log.path == "3"
    assert config_of(with_top("access_log:\n  path: !!str ${N}"), {"N": "3"}).access_log.path == "3"


def test_an_unquoted_variable_may_hold_off():
    assert config_of(with_top("access_log:\n  path: ${LOG}"), {"LOG": "off"}).access_log.path is None


def test_variables_within_text():
    config = config_of(MINIMAL.replace("127.0.0.1:9001", "${HOST}.internal:${PORT:-9001}"), {"HOST": "chat2"})
    assert str(config.upstreams["chat"].backends[0].address) == "chat2.internal:9001"


@pytest.mark.parametrize(("environ", "path"), [({}, "a"), ({"X": ""}, "a"), ({"X": "b"}, "b")])
def test_a_default_stands_in_for_what_is_unset_or_empty(environ, path):
    assert config_of(with_top('access_log: {path: "${X:-a}"}'), environ).access_log.path == path


def test_a_value_cannot_bring_in_structure():
    config = config_of(with_top("access_log:\n  path: ${X}"), {"X": "a\n  , format: text, [b]: {c"[1:].strip()})
    assert config.access_log.path == ", format: text, [b]: {c"
    assert config.access_log.format == "json"
    assert config_of(with_top("access_log:\n  path: ${X}"), {"X": "<<"}).access_log.path == "<<"


def test_a_value_is_not_substituted_again():
    assert config_of(with_top("access_log:\n  path: ${X}"), {"X": "${Y}"}).access_log.path == "${Y}"


def test_a_literal_dollar_brace():
    assert config_of(with_top("access_log:\n  path: $${X}"), {}).access_log.path == "${X}"
    assert config_of(with_top("access_log:\n  path: a$b$"), {}).access_log.path == "a$b$"


def test_keys_are_not_substituted():
    assert "unknown key" in complaints(with_top("${X}: 5"), {"X": "max_tunnels"})[0]


def test_unset_variables_are_reported_where_they_stand_and_once():
    text = "workers: ${N}\n" + MINIMAL.replace("127.0.0.1:9001", "${HOST}:${PORT}").replace(
        "upstream: chat", 'upstream: "${UP}"'
    )
    assert complaints(text) == [
        "gateway.yaml:1:10: workers: the environment variable N is not set (set, or with a default: ${N:-…})",
        "gateway.yaml:4:21: upstreams.chat.backends[0]: the environment variables HOST, PORT are not set"
        " (set, or with a default: ${HOST:-…})",
        "gateway.yaml:6:28: routes[0].upstream: the environment variable UP is not set"
        " (set, or with a default: ${UP:-…})",
    ]


@pytest.mark.parametrize("reference", ["${", "${}", "${1}", "${A-b}", "${A:b}", "${A B}", "${A", "${A:-b"])
def test_what_is_no_reference(reference):
    assert complaints(with_top(f"access_log: {{path: '{reference}'}}"), {"A": "a"}) == [
        f'gateway.yaml:1:20: access_log.path: "{reference}" is not a reference to a variable'
        " (${VAR}, ${VAR:-default}, or $${ for a literal ${)"
    ]


def test_an_unquoted_reference_within_brackets_is_told_to_get_quotes():
    assert complaints("access_log: {path: ${LOG}}") == [
        "gateway.yaml:1:21: file: not YAML: while parsing a flow mapping, expected ',' or '}', but got '{'"
        " (a ${…} within [ ] or { } needs quotes)"
    ]


def test_a_file_is_read_with_the_environment_of_the_process(tmp_path, monkeypatch):
    file = tmp_path / "gateway.yaml"
    file.write_text(with_top("workers: ${GATEWAY_TEST_WORKERS}"))
    monkeypatch.setenv("GATEWAY_TEST_WORKERS", "7")
    assert load(file).workers == 7
    monkeypatch.delenv("GATEWAY_TEST_WORKERS")
    with pytest.raises(ConfigError, match="GATEWAY_TEST_WORKERS is not set"):
        load(file)
    assert load(file, {"GATEWAY_TEST_WORKERS": "5"}).workers == 5
