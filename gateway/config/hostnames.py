"""Host names and IP addresses, as text (RFC 1123 2.1, RFC 4291 2.2)."""

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from gateway.config.errors import BadValue
from gateway.config.words import quoted

# Underscores are not allowed in host names, but Docker and Kubernetes create such names and DNS resolves them.
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_ZONE = re.compile(r"[A-Za-z0-9_.-]{1,15}")  # an interface's name: IFNAMSIZ, less its NUL
_LONGEST_NAME = 253


def check_hostname(text: str) -> str:
    """Check a DNS name or IPv4 address, and return it in lower case.

    :raises BadValue: it is neither
    """
    name = text.lower()
    if not name.isascii():
        raise BadValue(f"{quoted(text)} is not in ASCII", "the name's xn--… form")
    labels = name.split(".")
    # A name that ends in a number can only be meant as an address (https://url.spec.whatwg.org/#ends-in-a-number-checker).
    if labels[-1].isdigit():
        return _check_ipv4(text)
    if len(name) > _LONGEST_NAME or not all(map(_LABEL.fullmatch, labels)):
        hint = f"letters, digits and hyphens between dots, at most {_LONGEST_NAME} characters"
        raise BadValue(f"{quoted(text)} is not a host name", hint)
    return name


def check_ipv6(text: str) -> str:
    """Check an IPv6 address without brackets, perhaps with a zone; return it in canonical form (RFC 5952).

    :raises BadValue: it is not one
    """
    address, percent, zone = text.partition("%")
    try:
        canonical = str(IPv6Address(address))
    except AddressValueError:
        raise BadValue(f"{quoted(text)} is not an IPv6 address", "such as [::1] or [2001:db8::5]") from None
    if percent and not _ZONE.fullmatch(zone):
        raise BadValue(f"{quoted(zone)} is not the name of a network interface", "such as [fe80::1%eth0]")
    return canonical + percent + zone


def _check_ipv4(text: str) -> str:
    try:
        return str(IPv4Address(text))
    except AddressValueError:
        raise BadValue(
            f"{quoted(text)} is not an IPv4 address", "four numbers from 0 to 255, such as 10.0.0.5"
        ) from None
