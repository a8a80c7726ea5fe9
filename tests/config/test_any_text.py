"""Whatever a file holds, it loads or there is a ConfigError that can be printed."""

import re
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config import Config
from tests.support.examples import examples

from .files import CONTRACT, complaints, config_of

LINE = re.compile(r"gateway\.yaml:[1-9][0-9]*:[1-9][0-9]*: .+: .+ \(.+\)")
ENVIRON = {"A": "1", "B": "a: [b", "EMPTY": ""}

YAML_PIECES = (
    st.sampled_from("\n \t:-[]{},#&*!|>'\"%@`?~=<.0159aAé\ud800\x07\x85\u2028\ufeff")
    | st.sampled_from(["  ", "\n  ", ": ", "- ", "<<: ", "&a ", "*a", "%YAML 1.1\n", "---\n", "...\n", "\\U"])
    | st.sampled_from(["!!int ", "!!str ", "!!set ", "!!timestamp ", "0x", "1:1", "2001-01-01", ".inf", "off"])
    | st.sampled_from(["${", "}", "${A}", "${B}", "${EMPTY}", "${C:-d}", "$${"])
    | st.sampled_from(["listen", "address", "routes", "upstreams", "timeouts", "match", "path_regex", "10s"])
)


def keys_of(section: Any) -> set[str]:
    """Return the keys anywhere in `section`."""
    if isinstance(section, dict):
        return set(section) | {key for value in section.values() for key in keys_of(value)}
    return {key for item in section for key in keys_of(item)} if isinstance(section, list) else set()


EXAMPLE = yaml.safe_load(CONTRACT)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates() | st.binary()
LIKELY = st.sampled_from(
    ["off", "auto", "10s", "a:1", "unix:/a", "[::1]:80", "/", "chat", "h2c", "10.0.0.0/8", "[key]"]
)
KEYS = st.sampled_from(sorted(keys_of(EXAMPLE))) | st.text(max_size=5) | st.just("[key]") | st.integers()
DOCUMENTS = st.recursive(
    SCALARS | LIKELY,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=20,
)


def check(text: str) -> None:
    lines = complaints(text, ENVIRON)
    assert all(LINE.fullmatch(line) and line.isprintable() for line in lines)
    assert lines or isinstance(config_of(text, ENVIRON), Config)


@given(st.text())
@settings(deadline=None)
def test_any_text(text):
    check(text)


@given(st.lists(YAML_PIECES, max_size=40).map("".join))
@settings(deadline=None, max_examples=examples(500))
def test_any_pieces_of_yaml(text):
    check(text)


@given(DOCUMENTS)
@settings(deadline=None, max_examples=examples(200))
def test_any_document(document):
    check(yaml.safe_dump(document, allow_unicode=True))


@given(st.data())
@settings(deadline=None, max_examples=examples(200))
def test_the_example_with_anything_in_a_place_of_it(data):
    document = yaml.safe_load(CONTRACT)
    section = document
    while True:
        key = data.draw(st.sampled_from(list(section) if isinstance(section, dict) else range(len(section))))
        if not isinstance(section[key], dict | list) or data.draw(st.booleans()):
            break
        section = section[key]
    section[key] = data.draw(DOCUMENTS)
    check(yaml.safe_dump(document, allow_unicode=True))


@given(st.integers(0, len(CONTRACT)), st.integers(0, 30), YAML_PIECES)
@settings(deadline=None, max_examples=examples(300))
def test_the_example_with_a_piece_replaced(start, length, piece):
    check(CONTRACT[:start] + piece + CONTRACT[start + length :])
