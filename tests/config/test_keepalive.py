"""Keepalive of the two sides: what applies on a route, and which keys do not go together."""

import json
import pickle

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.config import Config, Keepalive, KeepaliveSide, Listener, Upstream

from .files import complaints, config_of, route, with_top

LEAVE_IT_OUT = "(leave it out, or write `ping_after: adaptive`)"


def both(general: str, own: str) -> str:
    """Return a configuration with `general` as its keepalive, on line 1, and `own` as that of its route."""
    return f"keepalive: {general}\n" + route(f"keepalive: {own}")


def client_of(general: str, own: str) -> KeepaliveSide | None:
    """Return what applies to the client's side of the route where both write these of it."""
    config = config_of(both(f"{{client: {general}}}", f"{{client: {own}}}"))
    return config.keepalive_of(config.routes[0]).client


def unused(side: KeepaliveSide) -> set[str]:
    """Return the keys of `side` that mean nothing in it."""
    return set() if side.ping_after == "adaptive" else {"min", "max"}


def misfits(general: str, own: str) -> list[str]:
    """Return what is said of a route whose client's side is `own`, without file, line and the keys around."""
    lines = complaints(both(f"{{client: {general}}}", f"{{client: {own}}}"))
    return [line.split(": ", 1)[1].removeprefix("routes[0].keepalive.client.") for line in lines]


@pytest.mark.parametrize("spelling", ["off", "Off", '"off"', "false"])
def test_off_for_a_side_or_for_its_pings(spelling):
    keepalive = config_of(with_top(f"keepalive: {{client: {spelling}, backend: {{ping_after: {spelling}}}}}")).keepalive
    assert keepalive.client is None
    assert keepalive.backend.ping_after is None
    assert keepalive.backend.pong_timeout == 20.0


def test_what_is_left_out_has_its_default():
    keepalive = config_of(
        with_top("keepalive: {client: {ping_after: adaptive}, backend: {pong_timeout: 90s}}")
    ).keepalive
    assert keepalive.client.model_dump() == {"ping_after": "adaptive", "min": 5.0, "max": 240.0, "pong_timeout": 20.0}
    assert keepalive.backend.model_dump() == {"ping_after": 25.0, "min": 5.0, "max": 240.0, "pong_timeout": 90.0}


def test_bounds_may_be_equal_and_may_leave_out_where_it_begins():
    for bounds in ("min: 10s, max: 10s", "min: 1m", "max: 5s", "min: 4m", "min: 5m, max: 1h"):
        assert complaints(with_top(f"keepalive: {{client: {{ping_after: adaptive, {bounds}}}}}")) == []


# --- merging ----------------------------------------------------------------------------------------------------------


def test_a_route_overrides_the_keys_it_names_and_no_others():
    general = "{client: {ping_after: 10s, pong_timeout: 5s}, backend: {ping_after: adaptive, min: 2s, max: 1m}}"
    config = config_of(
        both(general, "{client: {pong_timeout: 7s}, backend: {max: 2m}}") + "  - {name: general, upstream: chat}\n"
    )
    own, plain = config.routes
    assert config.keepalive_of(plain) == config.keepalive
    assert config.keepalive_of(own) == Keepalive(
        client=KeepaliveSide(ping_after="10s", pong_timeout="7s"),
        backend=KeepaliveSide(ping_after="adaptive", min="2s", max="2m"),
    )


def test_a_side_that_a_route_does_not_name_is_the_gateways():
    config = config_of(both("{client: off, backend: {ping_after: off}}", "{backend: {pong_timeout: 5s}}"))
    keepalive = config.keepalive_of(config.routes[0])
    assert keepalive.client is None
    assert keepalive.backend == KeepaliveSide(ping_after="off", pong_timeout="5s")


def test_a_fixed_time_on_a_route_leaves_the_gateways_bounds_unused():
    assert client_of("{ping_after: adaptive, min: 2s, max: 1m}", "{ping_after: 3m}").ping_after == 180.0
    assert client_of("{ping_after: adaptive, min: 2s, max: 1m}", "{ping_after: off}").ping_after is None


def test_off_on_a_route_over_anything():
    for general in ("off", "{}", "{ping_after: adaptive, min: 2s, max: 1m}"):
        assert client_of(general, "off") is None


@pytest.mark.parametrize("own", ["{}", "{ping_after: 3s}", "{ping_after: adaptive, max: 1h}", "{pong_timeout: 3s}"])
def test_keys_of_a_route_over_off_start_from_the_defaults(own):
    assert client_of("off", own) == config_of(with_top(f"keepalive: {{client: {own}}}")).keepalive.client


def test_an_adaptive_route_takes_the_bounds_that_are_there():
    assert client_of("{}", "{ping_after: adaptive, min: 4m}") == KeepaliveSide(ping_after="adaptive", min="4m")
    assert client_of("{ping_after: adaptive, min: 2s, max: 1m}", "{min: 1m}").max == 60.0


def test_a_pickled_route_still_knows_what_it_overrides():
    text = both("{client: {ping_after: 10s}, backend: off}", "{client: {pong_timeout: 5s}}")
    config = pickle.loads(pickle.dumps(config_of(text)))
    assert config.keepalive_of(config.routes[0]) == Keepalive(
        client=KeepaliveSide(ping_after="10s", pong_timeout="5s"), backend="off"
    )


TIMES = st.sampled_from(["1s", "5s", "20s", "1m", "4m", "10m"])
SIDES = st.just("off") | st.fixed_dictionaries(
    {},
    optional={
        "ping_after": TIMES | st.sampled_from(["adaptive", "off"]),
        "min": TIMES,
        "max": TIMES,
        "pong_timeout": TIMES,
    },
)


@given(SIDES, SIDES)
@settings(deadline=None)
def test_a_route_is_as_if_all_its_keys_stood_in_one_place(general, own):
    assume(not complaints(with_top(f"keepalive: {{client: {json.dumps(general)}}}")))
    whole = own if "off" in (general, own) else general | own
    if "off" not in (whole, own) and own.get("ping_after", "adaptive") != "adaptive":
        whole = {key: value for key, value in whole.items() if key in own or key not in ("min", "max")}
    expected = with_top(f"keepalive: {{client: {json.dumps(whole)}}}")
    assert len(misfits(json.dumps(general), json.dumps(own))) == len(complaints(expected))
    if not complaints(expected):
        client, side = client_of(json.dumps(general), json.dumps(own)), config_of(expected).keepalive.client
        assert (client is None) == (side is None)
        assert client is None or client.model_dump(exclude=unused(client)) == side.model_dump(exclude=unused(side))


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_all_mistakes_are_reported_at_once_where_they_are():
    text = """\
keepalive:
  client: {ping_after: 0s, pong_timeout: 500ms}
  backend:
    ping_after: adaptive
    min: 10m
    max: 5
listen: [{address: "0.0.0.0:8080"}]
upstreams: {chat: {backends: ["127.0.0.1:9001"]}}
routes:
  - name: a
    upstream: chat
    keepalive: {backend: {min: 5m, max: 1m}}
  - name: b
    upstream: chat
    keepalive:
      client:
        ping_after: 30s
        min: 5s
      backend: 25s
      server: off
"""
    assert complaints(text) == [
        "gateway.yaml:2:24: keepalive.client.ping_after: 0s is too short"
        " (at least 1s, such as 25s or 4m, or adaptive, or off)",
        "gateway.yaml:2:42: keepalive.client.pong_timeout: 500ms is too short (at least 1s, such as 5s, 20s or 4m)",
        "gateway.yaml:6:10: keepalive.backend.max: expected a duration, found the number 5"
        " (with its unit: 5s for seconds, 5ms for milliseconds)",
        "gateway.yaml:12:41: routes[0].keepalive.backend.max: 1m is shorter than min, which is 5m"
        " (at least 5m, or a shorter min)",
        "gateway.yaml:18:9: routes[1].keepalive.client.min:"
        f" allowed only where ping_after is adaptive; it is 30s here {LEAVE_IT_OUT}",
        'gateway.yaml:19:16: routes[1].keepalive.backend: expected a mapping or off, found the text "25s"'
        " (such as {ping_after: 25s} or {ping_after: adaptive}, or off)",
        "gateway.yaml:20:7: routes[1].keepalive.server: unknown key (known here: client, backend)",
    ]


@pytest.mark.parametrize(
    ("side", "complaint"),
    [
        (
            "{min: 2s}",
            f"22: keepalive.client.min: allowed only where ping_after is adaptive; it is 25s here {LEAVE_IT_OUT}",
        ),
        (
            "{max: 2m, ping_after: off}",
            f"22: keepalive.client.max: allowed only where ping_after is adaptive; it is off here {LEAVE_IT_OUT}",
        ),
        (
            "{ping_after: adaptive, min: 5m}",
            "49: keepalive.client.min: 5m is longer than max, which is 4m (at most 4m, or a longer max)",
        ),
        (
            "{ping_after: adaptive, max: 3s}",
            "49: keepalive.client.max: 3s is shorter than min, which is 5s (at least 5s, or a shorter min)",
        ),
        (
            "{max: 3s, ping_after: adaptive, min: 3.5s}",
            "27: keepalive.client.max: 3s is shorter than min, which is 3.5s (at least 3.5s, or a shorter min)",
        ),
        (
            "{ping_after: adaptive, min: off}",
            "49: keepalive.client.min: cannot be off (a duration, such as 5s, 20s or 4m)",
        ),
        ("", "20: keepalive.client: expected a mapping or off, found nothing"),
        ("true", "21: keepalive.client: expected a mapping or off, found true"),
        ("[]", "21: keepalive.client: expected a mapping or off, found a list"),
    ],
)
def test_what_is_wrong_with_a_side(side, complaint):
    (line,) = complaints(with_top(f"keepalive: {{client: {side}}}"))
    assert line.startswith(f"gateway.yaml:1:{complaint}")


@pytest.mark.parametrize(
    ("general", "own", "complaint"),
    [
        (
            "{ping_after: adaptive}",
            "{min: 10m}",
            "min: 10m is longer than max, which is 4m (at most 4m, or a longer max)",
        ),
        (
            "{ping_after: adaptive, min: 20s}",
            "{max: 10s}",
            "max: 10s is shorter than min, which is 20s (at least 20s, or a shorter min)",
        ),
        ("{}", "{min: 2s}", f"min: allowed only where ping_after is adaptive; it is 25s here {LEAVE_IT_OUT}"),
        (
            "{ping_after: 90s}",
            "{max: 2s}",
            f"max: allowed only where ping_after is adaptive; it is 90s here {LEAVE_IT_OUT}",
        ),
        (
            "{ping_after: off}",
            "{min: 2s}",
            f"min: allowed only where ping_after is adaptive; it is off here {LEAVE_IT_OUT}",
        ),
        ("off", "{min: 2s}", f"min: allowed only where ping_after is adaptive; it is 25s here {LEAVE_IT_OUT}"),
        (
            "{ping_after: adaptive}",
            "{ping_after: 5s, min: 2s}",
            f"min: allowed only where ping_after is adaptive; it is 5s here {LEAVE_IT_OUT}",
        ),
    ],
)
def test_what_is_wrong_only_beside_the_gateways_keepalive(general, own, complaint):
    assert misfits(general, own) == [complaint]


@pytest.mark.parametrize("general", ["[]", "25s", "{ping_after: soon}", "{ping_after: 10ms}", "{ping_after: }"])
def test_a_route_is_not_blamed_for_a_mistake_of_the_gateways(general):
    (line,) = misfits(general, "{min: 10s}")
    assert line.startswith("keepalive.client")
    assert len(misfits("{ping_after: adaptive, min: 2m, max: 1m}", "{pong_timeout: 5s}")) == 1
    own_mistake = misfits(general, "{ping_after: 5s, min: 10s}")
    assert len(own_mistake) == 2
    assert own_mistake[1].startswith("min: allowed only where")


def test_bounds_in_the_wrong_order_are_wrong_whatever_they_bound():
    assert misfits('{ping_after: "${UNSET}"}', "{min: 10m}")[1:] == [
        "min: 10m is longer than max, which is 4m (at most 4m, or a longer max)"
    ]


def test_a_variable_that_is_not_set_is_one_mistake():
    for general in ('"${UNSET}"', '{ping_after: "${UNSET}"}', '{ping_after: adaptive, max: "${UNSET}"}'):
        (line,) = misfits(general, "{min: 10s}")
        assert "UNSET is not set" in line
    (line,) = misfits("{ping_after: 10s}", '{ping_after: "${UNSET}", min: 10s}')
    assert "UNSET is not set" in line


def test_keys_that_an_alias_brings_in_are_reported_where_they_are_written():
    text = "keepalive: {client: &side {ping_after: adaptive, min: 1m}, backend: {<<: *side, ping_after: 5s}}"
    assert complaints(with_top(text)) == [
        "gateway.yaml:1:50: keepalive.backend.min:"
        f" allowed only where ping_after is adaptive; it is 5s here {LEAVE_IT_OUT}"
    ]


def test_code_may_build_what_files_hold():
    def build(own: dict[str, object]) -> Config:
        return Config(
            listen=[Listener(address="127.0.0.1:1")],
            upstreams={"a": Upstream(backends=["127.0.0.1:2"])},
            keepalive=Keepalive(client="off", backend=KeepaliveSide(ping_after="adaptive", max="1m")),
            routes=[{"name": "a", "upstream": "a", "keepalive": own}],
        )

    config = build({"backend": {"min": "1m"}, "client": {"ping_after": "2s"}})
    assert config.keepalive_of(config.routes[0]) == Keepalive(
        client=KeepaliveSide(ping_after="2s"), backend=KeepaliveSide(ping_after="adaptive", min="1m", max="1m")
    )
    with pytest.raises(ValidationError, match="2m is longer than max"):
        build({"backend": {"min": "2m"}})
    with pytest.raises(ValidationError, match="allowed only where ping_after is adaptive; it is 25s here"):
        build({"client": {"min": "2m"}})
