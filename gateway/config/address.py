"""Addresses of listeners and backends: `host:port`, `[::]:port` or `unix:/path`."""

from dataclasses import dataclass

from gateway.config.errors import BadValue
from gateway.config.hostnames import check_hostname, check_ipv6
from gateway.config.words import found, number, quoted

_UNIX = "unix:"
_LONGEST_UNIX_PATH_BYTES = 107  # sun_path of unix(7), less its NUL
_LONGEST_TEXT = 300  # a name has at most 253 characters; shorter texts may be repeated in hints
_HIGHEST_PORT = 65535
_FORMS = "host:port, [::1]:port or unix:/path"


@dataclass(frozen=True, slots=True)
class Address:
    """A socket's address: `host` and `port`, or `path`; unused fields are None.

    `host` is an IPv6 address without brackets, an IPv4 address or a lower-case name. `str()` gives the canonical text,
    which is equal for equal addresses and used as a label of metrics.
    """

    host: str | None = None
    port: int | None = None
    path: str | None = None

    @property
    def name(self) -> str | None:
        """The host if it is a name, which must be resolved; otherwise None."""
        if self.host is None or ":" in self.host or self.host.rpartition(".")[2].isdigit():
            return None  # same rule as check_hostname(): a host that ends in a number is an address
        return self.host

    def __str__(self) -> str:
        if self.path is not None:
            return _UNIX + self.path
        return f"[{self.host}]:{self.port}" if self.host and ":" in self.host else f"{self.host}:{self.port}"


def parse_backend(value: object) -> Address:
    """Parse the address of a backend; an `Address` is returned unchanged.

    :raises BadValue: it is not an address
    """
    if isinstance(value, Address):
        return value
    if not isinstance(value, str):
        raise BadValue(f"expected an address, found {found(value)}", _hint_for(value))
    if value.startswith(_UNIX):
        return Address(path=_check_unix_path(value.removeprefix(_UNIX)))
    host, port = _split(value)
    return Address(host=_check_host(host, port), port=_check_port(port))


def parse_listen(value: object) -> Address:
    """Parse the address of a listener; an `Address` is returned unchanged.

    `*` means every IPv4 address, as in nginx. The only name allowed is `localhost`: any other could resolve to a
    different address, or to none, each time the gateway starts.

    :raises BadValue: it is not an address, or not one to listen on
    """
    if isinstance(value, str) and value.startswith("*:"):
        value = "0.0.0.0" + value.removeprefix("*")
    address = parse_backend(value)
    if address.host is None or ":" in address.host or address.host == "localhost":
        return address
    if not address.host.rpartition(".")[2].isdigit():
        hint = f"0.0.0.0:{address.port} for every interface, or the IP address of one"
        raise BadValue(f"cannot listen on the name {quoted(address.host)}", hint)
    return address


ADDRESS_JSON_SCHEMA = {"type": "string", "pattern": r"^(unix:/.+|.+:[0-9]{1,5})$"}


def _split(text: str) -> tuple[str, str]:
    if "/" in text:
        raise BadValue(f"expected an address, found {quoted(text)}", f"no scheme, no path: {_FORMS}")
    if not text or len(text) > _LONGEST_TEXT:
        raise BadValue(f"expected an address, found {found(text)}", _FORMS)
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        raise BadValue(f"{quoted(text)} has no port", f"{text}:8080")
    return host, port


def _check_host(host: str, port: str) -> str:
    if host.startswith("[") and host.endswith("]"):
        return check_ipv6(host[1:-1])
    if not host:
        raise BadValue("has no host before the port", f"127.0.0.1:{port}, or 0.0.0.0:{port} to listen everywhere")
    if ":" in host:
        raise BadValue("an IPv6 address needs brackets", f"[{host}]:{port}")
    return check_hostname(host)


def _check_port(text: str) -> int:
    # The length check protects int(), which raises its own error for thousands of digits.
    port = int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else 0
    if not 1 <= port <= _HIGHEST_PORT:
        raise BadValue(f"{quoted(text)} is not a port", f"a number from 1 to {_HIGHEST_PORT}")
    return port


def _check_unix_path(path: str) -> str:
    if not path:
        raise BadValue("has no path after `unix:`", "unix:/run/gateway.sock")
    if not path.startswith("/"):
        raise BadValue(f"the path {quoted(path)} is not absolute", "unix:/run/gateway.sock")
    if not path.isprintable():
        raise BadValue(f"the path {quoted(path)} holds a control character", "unix:/run/gateway.sock")
    length_bytes = len(path.encode())
    if length_bytes > _LONGEST_UNIX_PATH_BYTES:
        raise BadValue(f"the path has {length_bytes} bytes", f"at most {_LONGEST_UNIX_PATH_BYTES}")
    return path


def _hint_for(value: object) -> str:
    # `address: 8080` is common with nginx, where it means every interface.
    if isinstance(value, int) and not isinstance(value, bool):
        return f"127.0.0.1:{number(value)}, or 0.0.0.0:{number(value)} to listen everywhere"
    return _FORMS
