"""Values of annotated types as plain data, and back."""

import json
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated, Any, Literal, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.processes.control.plain import Misfit, form_of


class Point(NamedTuple):
    x: int
    y: float | None = None


class Disc(NamedTuple):
    centre: Point
    name: str


@dataclass(frozen=True, slots=True)
class Place:
    host: str | None = None
    points: tuple[Point, ...] = ()


class Everything(NamedTuple):
    switch: bool
    data: bytes
    how: Literal["a", "b"]
    limit: float | Literal["adaptive"] | None
    place: Place
    shape: Point | Disc | None
    pair: tuple[int, str]
    several: list[tuple[tuple[int, int], Point]]
    some: frozenset[int]
    by_name: dict[str, Disc]
    by_place: dict[Place, tuple[str, ...]]
    networks: tuple[IPv4Network | IPv6Network, ...]
    peers: Annotated[tuple[Point, ...], "more about them"]


points = st.builds(Point, st.integers(), st.none() | st.floats(allow_nan=False))
discs = st.builds(Disc, points, st.text())
places = st.builds(Place, st.none() | st.text(), st.tuples(points))
everything = st.builds(
    Everything,
    st.booleans(),
    st.binary(),
    st.sampled_from("ab"),
    st.none() | st.floats(allow_nan=False) | st.just("adaptive"),
    places,
    st.none() | points | discs,
    st.tuples(st.integers(), st.text()),
    st.lists(st.tuples(st.tuples(st.integers(), st.integers()), points)),
    st.frozensets(st.integers()),
    st.dictionaries(st.text(), discs),
    st.dictionaries(places, st.tuples(st.text())),
    st.tuples(st.ip_addresses(v=4).map(ip_network), st.ip_addresses(v=6).map(ip_network)),
    st.tuples(points),
)


@given(everything)
def test_what_is_encoded_is_decoded(value):
    form = form_of(Everything)
    assert form.decoded(json.loads(json.dumps(form.encoded(value)))) == value
    assert type(form.decoded(json.loads(json.dumps(form.encoded(value)))).shape) is type(value.shape)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_what_does_not_fit_is_no_other_error(data):
    with pytest.raises(Misfit):
        form_of(Everything).decoded(data)


@given(everything, st.data())
def test_a_field_that_does_not_fit_is_named(value, data):
    at = data.draw(st.integers(0, len(value) - 1))
    plain = form_of(Everything).encoded(value)
    plain[at] = {"no": "such thing"} if Everything._fields[at] not in ("by_name",) else 1
    with pytest.raises(Misfit, match=rf"^Everything\.{Everything._fields[at]}: "):
        form_of(Everything).decoded(plain)


@pytest.mark.parametrize(
    ("kind", "data", "error"),
    [
        (int, True, "bool is not int"),
        (int, 1.5, "float is not int"),
        (float, "1", r"str\[1\] is not float or int"),
        (Point, [1], r"Point: list\[1\] in place of x, y"),
        (Point, [1, 2, 3], r"Point: list\[3\] in place of x, y"),
        (Point, ["secret", 2.0], r"Point.x: str\[6\] is not int"),
        (
            Disc,
            [[1, "2"], "d"],
            r"Disc.centre: Point.y: str\[1\] is not float or int or null",
        ),
        (tuple[Point, ...], [[1, None], 7], "Point: int in place of x, y"),
        (dict[str, int], [], "is not an object"),
        (frozenset[int], ["x"], "is not int"),
        (Literal["a", "b"], "c", "is not one of 'a', 'b'"),
        (Point | Disc, ["Circle", []], "none of Point, Disc"),
        (IPv4Network, "10.0.0.1/8", "is not IPv4Network"),
        (bytes, "\u20ac", "is not bytes"),
    ],
)
def test_misfits(kind, data, error):
    with pytest.raises(Misfit, match=error):
        form_of(kind).decoded(data)


def test_a_list_that_fitted_once_is_looked_at_again():
    """Fields whose types were seen before are not looked at one by one; others are."""
    form = form_of(Point)
    assert form.decoded([1, 2.0]) == Point(1, 2.0)
    with pytest.raises(Misfit):
        form.decoded([1, 2.0, 3])
    with pytest.raises(Misfit):
        form.decoded([1.0, 2.0])
    with pytest.raises(Misfit):
        form.decoded([1.0, 2.0])
    assert form.decoded([1, None]) == Point(1, None)


@pytest.mark.parametrize("kind", [object, Any, set[int], tuple[int, ...] | list[int] | str])
def test_a_type_that_has_no_form(kind):
    with pytest.raises(TypeError, match="has no form on the control channel"):
        form_of(kind)


def test_addresses_and_networks_are_text():
    assert form_of(tuple[IPv4Network, ...]).encoded((ip_network("10.0.0.0/8"),)) == ["10.0.0.0/8"]
    peer = ip_address("2001:db8::1")
    assert form_of(type(peer)).decoded(form_of(type(peer)).encoded(peer)) == peer
