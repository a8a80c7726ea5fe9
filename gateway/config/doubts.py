"""Warnings of `gateway check` and `gateway run`: settings that are valid but probably wrong."""

from collections.abc import Iterator
from ipaddress import ip_address

from gateway.config.address import Address
from gateway.config.certificates import doubts_about, read_pair
from gateway.config.errors import BadValue
from gateway.config.ineffective import ineffective
from gateway.config.reach import slow_expressions, unreachable, useless
from gateway.config.schema import Config
from gateway.config.section import Conflict
from gateway.config.targets import read_targets

_EVERY_ADDRESS = {"0.0.0.0": 4, "::": 6}
"""Wildcard addresses and their IP version. Connecting to one reaches this machine."""


def doubts(config: Config) -> Iterator[Conflict]:
    """Yield a warning for each backend that is one of the gateway's own listeners, for each unverified upstream, for
    each cookie of two upstreams, for each certificate of a listener that is not valid now, or not for long, for weak
    credentials, for each route that no request reaches, for expressions that may take long, and for settings of
    upstreams that can never act. Reads the certificates."""
    for check in (unreachable, useless, slow_expressions):
        yield from check(config.routes)
    for index, route in enumerate(config.routes):
        if route.auth is not None and route.auth.jwt is not None:
            for key, doubt in route.auth.jwt.doubts():
                yield Conflict(("routes", index, "auth", "jwt", *key), doubt)
    for index, listener in enumerate(config.listen):
        for number, pair in enumerate(listener.tls.certificates if listener.tls is not None else ()):
            for doubt in doubts_about(read_pair(pair.cert, pair.key)):
                yield Conflict(("listen", index, "tls", "certificates", number, "cert"), doubt)
    yield from _same_cookies(config)
    yield from ineffective(config)
    for name, upstream in config.upstreams.items():
        if upstream.tls is not None and upstream.tls.cert is not None:
            for doubt in doubts_about(read_pair(upstream.tls.cert, upstream.tls.key)):
                yield Conflict(("upstreams", name, "tls", "cert"), doubt)
        if upstream.tls is not None and not upstream.tls.verify:
            message = "warning: certificates of backends are not verified: anyone on the way can read and change all"
            hint = "true, with `ca` for the backends' own CA and `server_name` for the name in their certificates"
            yield Conflict(("upstreams", name, "tls", "verify"), BadValue(message, hint))
        if upstream.discover is not None and upstream.discover.file is not None:
            for doubt in _doubts_about_targets(upstream.discover.file):
                yield Conflict(("upstreams", name, "discover", "file"), doubt)
        for index, backend in enumerate(upstream.backends):
            for listener in config.listen:
                if leads_to(backend.address, listener.address):
                    message = f"warning: {backend.address} is where this gateway listens ({listener.address})"
                    hint = "the address of a server; requests that come back get 508"
                    yield Conflict(("upstreams", name, "backends", index, "address"), BadValue(message, hint))
                    break


def _doubts_about_targets(path: str) -> Iterator[BadValue]:
    try:
        mistakes = read_targets(path).mistakes
    except BadValue as error:
        yield BadValue(f"warning: {path}: {error.message}; until it can be used, it adds no backends", error.hint)
        return
    for mistake in mistakes:
        yield BadValue(f"warning: {path}: {mistake.message}; it is left out", mistake.hint)


def _same_cookies(config: Config) -> Iterator[Conflict]:
    """Yield sticky upstreams whose cookie has the name of an earlier one's."""
    owners: dict[str, str] = {}
    for name, upstream in config.upstreams.items():
        sticky = upstream.resolved_sticky()
        if sticky is None:
            continue
        owner = owners.setdefault(sticky.cookie, name)
        if owner != name:
            message = (
                f"warning: the cookie {sticky.cookie} is that of {owner}, too: at one host each replaces the other's"
            )
            yield Conflict(("upstreams", name, "sticky", "cookie"), BadValue(message, "a name of its own"))


def leads_to(backend: Address, listener: Address) -> bool:
    """Return whether connecting to `backend` reaches `listener`, judging by the addresses alone.

    The only addresses known to be this machine's are loopback ones; the only name known is `localhost`.
    """
    if backend.path is not None or listener.path is not None:
        return backend.path == listener.path
    if backend.port != listener.port:
        return False
    return any(_meet(host, listened) for host in _hosts(backend) for listened in _hosts(listener))


def _hosts(address: Address) -> list[tuple[int, str | None]]:
    """Return IP version and host for each host that an address may mean; the host is None for a wildcard."""
    host = address.host or ""
    if host == "localhost":
        return [(4, "127.0.0.1"), (6, "::1")]
    if host in _EVERY_ADDRESS:
        return [(_EVERY_ADDRESS[host], None)]
    try:
        return [(ip_address(host).version, host)]
    except ValueError:
        return []  # a name, which may resolve to anything


def _meet(one: tuple[int, str | None], other: tuple[int, str | None]) -> bool:
    """Return whether two hosts are the same, or one is a wildcard and the other a wildcard or loopback."""
    (family, host), (other_family, other_host) = one, other
    if family != other_family:
        return False
    if host is None or other_host is None:
        return all(each is None or ip_address(each).is_loopback for each in (host, other_host))
    return host == other_host
