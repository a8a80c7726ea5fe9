"""HTTP addresses that the gateway itself asks: key sets and forward auth."""

from urllib.parse import urlsplit

from gateway.config.address import Address, parse_backend
from gateway.config.errors import BadValue
from gateway.config.words import found, quoted


def parse_url(value: object, example: str) -> str:
    """Check an http or https URL and return it, its scheme in lower case.

    :param example: for error messages
    :raises BadValue: it is none, or has a user, a password or a fragment
    """
    if not isinstance(value, str) or not value:
        raise BadValue(f"expected a URL, found {found(value)}", f"such as {example}")
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise BadValue(f"{quoted(value)} is not a URL", f"such as {example}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadValue(f"{quoted(value)} is not a URL of http or https", f"such as {example}")
    if not value.isascii() or not value.isprintable() or " " in value or "\\" in value:
        raise BadValue(f"{quoted(value)} holds characters that a URL cannot have", "percent-encoded")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise BadValue("a user, a password and a fragment cannot be part of this URL", f"such as {example}")
    if port == 0:
        raise BadValue(f"{quoted(value)} has the port 0", f"such as {example}")
    address_of(value)
    return parts.scheme + value[len(parts.scheme) :]


def address_of(url: str) -> Address:
    """The address that a URL leads to. :raises BadValue: its host is neither a name nor an address"""
    parts = urlsplit(url)
    name = parts.hostname or ""
    host = f"[{name}]" if ":" in name else name
    return parse_backend(f"{host}:{parts.port or (443 if parts.scheme == 'https' else 80)}")
