"""Regular expressions that a client's path can make take long are found before they are used."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config.errors import BadValue
from gateway.config.regex_cost import LONGEST_PATH, MOST_STEPS, check_cost, most_steps
from tests.support.examples import examples


@pytest.mark.parametrize(
    "expression",
    [
        "^/old/(.*)$",
        "^/(.*)/(.*)$",
        "^/(.+)/(.+)\\.html$",
        "^(/[^/]+)+$",
        "^/rooms/[0-9]+$",
        "/x",
        "a+b",
        "^/([0-9a-f]{8}-){3}x$",
        "^/(?P<x>[^/]+)/(?P<y>.*)$",
        "(?i)^/straße/.*",
        "^/([a-z]{1,63}/){1,3}$",
        "^/(ab|cd)*x",
        "\\.(png|jpg|gif)$",
        "^/foo|^/bar|^/baz",
        "^/(foo|bar|foobar)(/.*)?$",
        "^/(?>.*)x",
        "^/a.*+b",
        "",
        "^$",
    ],
)
def test_an_expression_that_is_quick_on_every_path(expression):
    check_cost(expression)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("(a+)+b", "may take exponential time"),
        ("(a|a)*b", "may take exponential time"),
        ("(.|/)*b", "may take exponential time"),
        ("^/(x+x+)+y", "may take exponential time"),
        ("(?i)(sa|\u017fa)*b", "may take exponential time"),
        ("(\\wx|[a-z]x)*$", "may take exponential time"),
        ("(a*)*b", "repeats what may be empty"),
        ("(a?){30}b", "repeats what may be empty"),
        ("(a|b*){2,}c", "repeats what may be empty"),
        ("^/(.*)/(.*)/(.*)$", "may take too long"),
        ("a?" * 30 + "b", "may take too long"),
        ("(a|a)" * 30, "may take too long"),
        ("(|||||)(|||||)(||||||)(||||)(||||)x", "may take too long"),
        ("^/(a)\\1", "a reference to a group"),
        ("^/(a)?(?(1)b|c)", "a reference to a group"),
        ("^/(?=x)", "looking ahead"),
        ("(?<!x)y", "looking ahead"),
        ("a{401}", "too large"),
        ("(" * 200 + "a" + ")" * 200 + "{5}" * 1 + "b{399}", "too large"),
    ],
)
def test_an_expression_that_may_not_be(expression, message):
    re.compile(expression)  # it is one
    with pytest.raises(BadValue, match=message):
        check_cost(expression)


PIECES = st.recursive(
    st.sampled_from(["a", "b", "[ab]", ".", "ab", "/"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "*?"])).map(
            lambda two: f"(?:{two[0]}){two[1]}"
        ),
        st.lists(inner, min_size=2, max_size=3).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"(?:{'|'.join(parts)})"),
    ),
    max_leaves=8,
)
REPEATED = ["a", "b", "ab", "aab", "/", "a/"]


@given(PIECES, st.booleans(), st.sampled_from(REPEATED), st.sampled_from(REPEATED))
@settings(max_examples=examples(150))
def test_what_is_let_through_is_quick_on_repetitive_paths(expression, anchored, one, other):
    """Exponential ones would take for ever on these; the bound is for paths twenty times as long."""
    expression = ("^" if anchored else "") + expression + "c"
    try:
        steps = most_steps(expression)
    except BadValue:
        return
    if steps > MOST_STEPS:
        return
    length = LONGEST_PATH // 2
    path = ((one * length)[:length] + (other * length))[:LONGEST_PATH]
    before = time.process_time()
    re.search(expression, path)
    assert time.process_time() - before < 2
