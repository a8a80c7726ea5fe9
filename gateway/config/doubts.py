"""What a configuration may say, but can hardly mean: warnings of `gateway check` and `gateway run`."""

from collections.abc import Iterator
from ipaddress import ip_address

from gateway.config.address import Address
from gateway.config.errors import BadValue
from gateway.config.schema import Config
from gateway.config.section import Conflict

_EVERY_ADDRESS = {"0.0.0.0": 4, "::": 6}
"""Of a family, to listen on; connecting to it leads to this machine."""


def doubts(config: Config) -> Iterator[Conflict]:
    """Yield each backend that is a listener of the gateway itself."""
    for name, upstream in config.upstreams.items():
        for index, backend in enumerate(upstream.backends):
            for listener in config.listen:
                if leads_to(backend.address, listener.address):
                    message = f"warning: {backend.address} is where this gateway listens ({listener.address})"
                    hint = "the address of a server; requests that come back get 508"
                    yield Conflict(("upstreams", name, "backends", index, "address"), BadValue(message, hint))
                    break


def leads_to(backend: Address, listener: Address) -> bool:
    """Return whether connecting to `backend` reaches `listener`, as far as the addresses themselves tell.

    Of this machine's addresses only loopback is known here, and of names only `localhost`.
    """
    if backend.path is not None or listener.path is not None:
        return backend.path == listener.path
    if backend.port != listener.port:
        return False
    return any(_meet(host, listened) for host in _hosts(backend) for listened in _hosts(listener))


def _hosts(address: Address) -> list[tuple[int, str | None]]:
    """Return family and host for each that an address may stand for; the host is None for every one."""
    host = address.host or ""
    if host == "localhost":
        return [(4, "127.0.0.1"), (6, "::1")]
    if host in _EVERY_ADDRESS:
        return [(_EVERY_ADDRESS[host], None)]
    try:
        return [(ip_address(host).version, host)]
    except ValueError:
        return []  # a name: where it leads is up to whoever serves it


def _meet(one: tuple[int, str | None], other: tuple[int, str | None]) -> bool:
    """Return whether two hosts are the same, or one of them is every address and the other one loopback or every."""
    (family, host), (other_family, other_host) = one, other
    if family != other_family:
        return False
    if host is None or other_host is None:
        return all(each is None or ip_address(each).is_loopback for each in (host, other_host))
    return host == other_host
