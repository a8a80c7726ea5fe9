"""YAML in all its glory: anchors, merges, tags, and documents made to hurt."""

import pytest

from .files import MINIMAL, complaints, config_of, with_top


def test_an_alias_stands_for_what_it_names():
    config = config_of(MINIMAL.replace("routes:\n", "  news: *chat\nroutes:\n").replace("chat: {", "chat: &chat {", 1))
    assert config.upstreams["news"] == config.upstreams["chat"]


def test_merged_keys_give_way_to_written_ones_and_earlier_to_later_mappings():
    config = config_of(
        """\
listen: [{address: "0.0.0.0:8080"}]
timeouts: &base {connect: 1s, handshake: 1s, close: 1s}
upstreams:
  chat: {backends: ["127.0.0.1:9001"]}
routes:
  - name: one
    upstream: chat
    timeouts: &one {<<: *base, connect: 2s}
  - name: two
    upstream: chat
    timeouts: {handshake: 3s, <<: [*one, *base]}
"""
    )
    one, two = (config.timeouts_of(route) for route in config.routes)
    assert (one.connect, one.handshake, one.close) == (2.0, 1.0, 1.0)
    assert (two.connect, two.handshake, two.close) == (2.0, 3.0, 1.0)


def test_a_mistake_in_what_is_merged_is_reported_where_it_is_written():
    text = MINIMAL.replace("upstream: chat}", "upstream: chat, timeouts: {<<: *base}}")
    assert complaints(f"timeouts: &base {{connect: 5}}\n{text}") == [
        f"gateway.yaml:1:27: {key}.connect: expected a duration, found the number 5"
        " (with its unit: 5s for seconds, 5ms for milliseconds)"
        for key in ("timeouts", "routes[0].timeouts")
    ]


@pytest.mark.parametrize("merged", ["5", "[5]", "text"])
def test_what_cannot_be_merged(merged):
    (line,) = complaints(with_top(f"admin: {{<<: {merged}}}"))
    assert line.endswith('admin."<<": expected a mapping to merge (an alias, such as *name)')


def test_a_key_given_twice():
    assert complaints(with_top("workers: 1\nworkers: 2")) == [
        "gateway.yaml:2:1: workers: this key is given twice (one `workers` only: the first is on line 1)"
    ]


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("1", "the number 1"),
        ("on", "true"),
        ("~", "nothing"),
        ("? [a]", "a list"),
        ("? {a: b}", "a mapping"),
        ("2001-02-03", "a date"),
        ("!x a", 'the text "a"'),
    ],
)
def test_a_key_that_is_not_text(key, kind):
    column = 3 if key.startswith("?") else 1
    assert complaints(with_top(f"{key}\n: 1" if column == 3 else f"{key}: 1")) == [
        f"gateway.yaml:1:{column}: file: expected a key that is text, found {kind} (quotes make it text)"
    ]


@pytest.mark.parametrize("tag", ["!x", "!!python/object:os.system", "!!binary", "!!set", "!!omap"])
@pytest.mark.parametrize("value", ["a", "[a]", "{a: 1}"])
def test_tags_are_refused(tag, value):
    (line,) = complaints(with_top(f"admin: {tag} {value}"))
    assert "gateway.yaml:1:8: admin: the tag " in line


def test_tags_of_what_is_anyway_there_are_taken():
    assert config_of(with_top("max_tunnels: !!int '5'\nadmin: !!map {}\ntrusted_proxies: !!seq []")).max_tunnels == 5


@pytest.mark.parametrize(
    "value",
    ["2001-99-99", "0x_", "._", "!!int ''", "!!float ''", "!!bool x", "!!timestamp x", "9" * 90 + ":1:1e5"],
)
def test_values_that_yaml_itself_trips_over(value):
    (line,) = complaints(with_top(f"max_tunnels: {value}"))
    assert line.startswith("gateway.yaml:1:14: max_tunnels: ")


def test_a_number_that_takes_quadratic_time():
    (line,) = complaints(with_top(f"max_tunnels: 1{':1' * 200_000}"))
    assert line.endswith("is too long for a value of type int (quotes make it text)")


@pytest.mark.parametrize("value", ["&a [*a]", "&a {x: *a}", "&a {<<: *a}", "&a [{x: [*a]}]"])
def test_an_alias_within_itself(value):
    lines = complaints(with_top(f"x: {value}"))
    assert any("an alias to what it stands in (a copy of what is meant" in line for line in lines)


@pytest.mark.parametrize(
    "bomb",
    [
        "a0: &a0 [1, 2]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 20)),
        "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 20)),
        "a: &a {" + ", ".join(f"k{i}: 1" for i in range(5000)) + "}\nb: {<<: [" + "*a, " * 5000 + "]}\n",
    ],
    ids=["lists", "merges", "wide merge"],
)
def test_a_document_that_explodes(bomb):
    (line,) = complaints(bomb)
    assert line.endswith(": file: expands to more than 50000 values (fewer aliases)")


def test_aliases_that_nest_too_deep():
    (line,) = complaints("a0: &a0 []\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 5000)))
    assert line.endswith(": file: expands to more than 40 levels (fewer aliases within aliases)")


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? ", "{? ", "[a: "])
def test_what_nests_too_deep(opening):
    (line,) = complaints(opening * 10_000)
    assert line.endswith("not YAML: nested more than 40 deep (what a gateway.yaml says)")


def test_what_holds_too_much():
    (line,) = complaints("a: [" + "1," * 60_000 + "]")
    assert line.endswith("not YAML: more than 50000 values (what a gateway.yaml says)")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: b: c", "1:5: file: not YAML: mapping values are not allowed here"),
        ("a:\n\t- b", "2:1: file: not YAML: while scanning for the next token, found character '\\t'"),
        ("a: 'b", "1:6: file: not YAML: while scanning a quoted scalar, found unexpected end of stream"),
        ("a: *b", "1:4: file: not YAML: found undefined alias 'b'"),
        ("a: 1\n---\nb: 2", "2:1: file: not YAML: expected a single document in the stream"),
        ("a: b\x07", "1:5: file: the character U+0007 is not allowed in YAML"),
        ("a:\n  \ud800", "2:3: file: the character U+D800 is not allowed in YAML"),
        ('a: "\\UFFFFFFFF"', "1:7: file: not YAML: a number is too large"),
        (f"%YAML 1.{'9' * 5000}\n--- a", "1:9: file: not YAML: a number is too large"),
    ],
)
def test_what_is_not_yaml(text, complaint):
    (line,) = complaints(text)
    assert line.startswith(f"gateway.yaml:{complaint}")
    assert line.endswith(")")


@pytest.mark.parametrize("text", ["", "\n", "# only a comment\n", "---\n", "null", "~", "\ufeff"])
def test_an_empty_file(text):
    (line,) = complaints(text)
    assert line.endswith(": file: the file is empty (`listen`, `upstreams` and `routes` at least)")


@pytest.mark.parametrize(("text", "kind"), [("- a", "a list"), ("a", 'the text "a"'), ("5", "the number 5")])
def test_a_file_that_is_no_mapping(text, kind):
    assert complaints(text) == [
        f"gateway.yaml:1:1: file: expected a mapping, found {kind} (lines such as `key: value`)"
    ]


def test_a_byte_order_mark_does_not_matter():
    assert config_of("\ufeff" + MINIMAL) == config_of(MINIMAL)
