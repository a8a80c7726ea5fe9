"""Routes: which requests go to which upstream."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, Strict

from gateway.config.access import Network, Origin
from gateway.config.auth import Auth
from gateway.config.errors import BadKey, BadValue, KeyPath
from gateway.config.field_changes import AnswerFields, RequestFields, names_changed
from gateway.config.keepalive import KeepaliveOverrides
from gateway.config.limits import Limits
from gateway.config.matching import Match
from gateway.config.names import Name, Upgrade
from gateway.config.own_answers import Redirect, Respond
from gateway.config.rewriting import Rewrite
from gateway.config.section import Conflict, Section, items_of, repeated, value_of
from gateway.config.timeouts import TimeoutOverrides
from gateway.config.words import choices, known, quoted

_MOST_WEIGHT = 65535
_GOALS = ("upstream", "upstreams", "redirect", "respond")
"""What a route does with requests: one of these."""

_EXAMPLES = {
    "upstream": "the name of an upstream",
    "upstreams": "such as [{name: chat, weight: 9}, {name: chat-next, weight: 1}]",
    "redirect": 'such as {to: "https://{host}{uri}", status: 301}',
    "respond": "such as {status: 410, body: gone}",
}

_FOR_BACKENDS = ("headers", "http", "upgrades", "rewrite")
"""Keys that mean nothing where no backend gets requests; a redirect can use a rewritten path."""


def _nothing_matches_all(value: object) -> object:
    # `match:` with all its lines commented out is null in YAML.
    return {} if value is None else value


class Share(Section):
    """An upstream that gets a share of a route's clients."""

    name: str = Field(description="Name of the upstream")
    weight: Annotated[int, Strict()] = Field(
        default=1, ge=0, le=_MOST_WEIGHT, description="Its share of the clients, relative to the others; 0 for none"
    )


class Route(Section):
    """Where matching requests go, and which upgrades are allowed."""

    name: Name = Field(description="Unique name, the `route` label of every metric")
    match: Annotated[Match, BeforeValidator(_nothing_matches_all, json_schema_input_type=Match | None)] = Field(
        default_factory=Match,
        description="Conditions that a request has to meet, all of them; absent: every request does",
    )
    upstream: str | None = Field(default=None, description="Name of the upstream that requests go to")
    upstreams: tuple[Share, ...] = Field(
        default=(),
        min_length=1,
        description="In its place: upstreams that clients are divided among, by a hash of their addresses",
    )
    redirect: Redirect | None = Field(default=None, description="In its place: where clients are sent")
    respond: Respond | None = Field(default=None, description="In its place: what they are answered")
    rewrite: Rewrite | None = Field(default=None, description="How the path changes for the backend")
    headers: RequestFields | None = Field(
        default=None, description="Header fields that backends get, and fields that they do not get"
    )
    answer_headers: AnswerFields | None = Field(
        default=None, description="Header fields that clients get, and fields that they do not get"
    )
    upgrades: tuple[Upgrade, ...] = Field(
        default=("websocket",),
        description="Protocols that may be upgraded to; an upgrade to another one is ignored",
    )
    http: Literal["proxy", "reject"] = Field(
        default="proxy",
        description="What a request without an upgrade gets: the upstream's answer, or 426",
    )
    origins: tuple[Origin, ...] = Field(
        default=(),
        min_length=1,
        description="Origins whose pages may send requests: https://app.example.com, https://*.example.com, null, or"
        " none (no Origin); others get 403; absent: any",
    )
    allow: tuple[Network, ...] = Field(
        default=(),
        min_length=1,
        description="Networks and addresses of clients that may come in; others get 403. The longest prefix in `allow`"
        " and `deny` decides",
    )
    deny: tuple[Network, ...] = Field(
        default=(),
        description="Networks and addresses of clients that get 403",
    )
    auth: Auth | None = Field(
        default=None,
        description="How clients prove who they are: jwt, basic or forward; without valid credentials they get 401",
    )
    limits: Limits | None = Field(default=None, description="How much a client may do; all limits are off by default")
    timeouts: TimeoutOverrides = Field(
        default_factory=TimeoutOverrides,
        description="Timeouts that differ on this route from the gateway's",
    )
    keepalive: KeepaliveOverrides = Field(
        default_factory=KeepaliveOverrides,
        description="Keys of the keepalive that differ on this route from the gateway's",
    )

    def shares(self) -> tuple[Share, ...]:
        """Return the upstreams that requests go to; none if the route answers itself."""
        return self.upstreams if self.upstream is None else (Share(name=self.upstream),)

    @classmethod
    def conflicts(cls, written: Mapping[str, object]) -> Iterator[Conflict]:
        """Yield more than one goal or none, keys that the goal leaves without a meaning, and fields that credentials
        and the configuration both set."""
        given = [key for key in _GOALS if key in written]
        if not given and not set(written) - set(cls.model_fields):
            yield Conflict((), BadValue("nothing says what requests get", f"one of {choices(_GOALS)}"))
        for key in given:
            if written[key] is None:
                yield Conflict((key,), BadValue("expected what requests get, found nothing", _EXAMPLES[key]))
        for key in given[1:]:
            error = BadKey(f"`{given[0]}` says already what requests get", f"one of {choices(_GOALS)}")
            yield Conflict((key,), error)
        if given and given[0] in ("redirect", "respond"):
            for key in _FOR_BACKENDS:
                if key in written and not (key == "rewrite" and given[0] == "redirect"):
                    yield Conflict((key,), BadKey(f"`{given[0]}` leaves nothing for it to do", f"no `{key}`"))
        yield from _share_mistakes(written)
        yield from _set_by_credentials(written)


def unknown_upstreams(routes: object, upstreams: Mapping[str, object]) -> Iterator[Conflict]:
    """Yield each upstream of a route that there is not. :param routes: as in the file"""
    for index, route in items_of(routes):
        named: list[tuple[KeyPath, object]] = [(("upstream",), value_of(route, "upstream"))]
        for at, share in items_of(value_of(route, "upstreams")):
            named.append((("upstreams", at, "name"), value_of(share, "name")))
        for key, name in named:
            if isinstance(name, str) and name not in upstreams:
                error = BadValue(f"there is no upstream {quoted(name)}", known(name, upstreams, "there are"))
                yield Conflict(("routes", index, *key), error)


def _share_mistakes(written: Mapping[str, object]) -> Iterator[Conflict]:
    shares = list(items_of(value_of(written, "upstreams")))
    names = [(("upstreams", at, "name"), value_of(share, "name")) for at, share in shares]
    yield from repeated([(key, name) for key, name in names if isinstance(name, str)], _listed_twice)
    if shares and all(value_of(share, "weight") == 0 for _, share in shares):
        yield Conflict(("upstreams",), BadValue("every weight is 0", "at least one above, or `respond` for none"))


def _set_by_credentials(written: Mapping[str, object]) -> Iterator[Conflict]:
    auth = value_of(written, "auth")
    forwarded = value_of(value_of(auth, "jwt"), "forward")
    taken = {str(name).lower() for name in (forwarded.values() if isinstance(forwarded, Mapping) else ())}
    taken |= {str(name).lower() for _, name in items_of(value_of(value_of(auth, "forward"), "copy"))}
    for key, name in names_changed(value_of(written, "headers")):
        if name in taken:
            error = BadValue(f"the field {name} comes from the client's credentials (`auth`)", "another name")
            yield Conflict(("headers", *key), error)


def _listed_twice(name: str) -> BadValue:
    return BadValue(f"the upstream {quoted(name)} is listed twice", "once, with a larger `weight`")
