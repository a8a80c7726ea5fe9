"""Files of users and keys, as text. Text that is valid is what workers are sent; they parse it the same way."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from gateway.config.errors import BadValue
from gateway.config.files import open_file
from gateway.config.words import quoted

if TYPE_CHECKING:
    from gateway.config.schema import Config

MAX_BYTES = 4 << 20
"""Tens of thousands of users."""

_ARGON2 = re.compile(r"\$argon2(?:id|i|d)\$v=\d+\$m=(\d{1,9}),t=(\d{1,9}),p=\d{1,3}\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+")
_BCRYPT = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}")
_MOST_COST = 15
"""Of bcrypt: each step doubles the time, and this one takes about 2 s."""

_MOST_PASSES, _MOST_KIB = 32, 1 << 20
"""Of argon2."""

_USERS_HINT = "lines such as those of `htpasswd -nB NAME`: name:$2y$…"
_CURVES = ("P-256", "P-384", "P-521", "Ed25519", "Ed448")
_SHORTEST_MODULUS = 342
"""Characters of an RSA key of 2048 bits, in base64url without padding."""

_KEYS_HINT = 'a JSON object with a list of "keys" (RFC 7517 section 5)'


def read_text(path: str) -> str:
    """The text of a file. :raises BadValue: it cannot be read"""
    try:
        with open_file(path) as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BadValue(f"{path} cannot be read: {reason}", "the path of a readable file") from None
    if len(content) > MAX_BYTES:
        raise BadValue(f"{path} has more than {MAX_BYTES} bytes", "another file")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise BadValue(f"{path} is not UTF-8", "a text file") from None


def parse_users(text: str) -> dict[str, str]:
    """Parse ``name:hash`` lines; empty ones and those that begin with ``#`` are skipped.

    :returns: hashes by name
    :raises BadValue: a line is malformed, a name is repeated, or a hash is of another kind
    """
    users: dict[str, str] = {}
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        name, colon, digest = line.partition(":")
        if not colon or not name:
            raise BadValue(f"line {number} is not name:hash", _USERS_HINT)
        if (bcrypt := _BCRYPT.fullmatch(digest)) is not None:
            is_slow = int(bcrypt[1]) > _MOST_COST
        elif (argon2 := _ARGON2.fullmatch(digest)) is not None:
            is_slow = int(argon2[1]) > _MOST_KIB or int(argon2[2]) > _MOST_PASSES
        else:
            raise BadValue(f"line {number}: the hash of {quoted(name)} is neither of argon2 nor bcrypt", _USERS_HINT)
        if is_slow:
            hint = f"a cost of {_MOST_COST} at most for bcrypt; {_MOST_PASSES} passes and 1 GiB for argon2"
            raise BadValue(f"line {number}: checking a password of {quoted(name)} takes too long", hint)
        if name in users:
            raise BadValue(f"line {number}: {quoted(name)} is there already", "one line for each user")
        users[name] = digest
    return users


def users_in(text: str) -> dict[str, str]:
    """The same for a text that :func:`parse_users` has accepted: in a third of the time, which relaying waits for."""
    parts = (line.strip().partition(":") for line in text.split("\n"))
    return {name: digest for name, colon, digest in parts if colon and not name.startswith("#")}


def parse_key_set(text: str) -> list[dict[str, Any]]:
    """Parse a JWK Set (RFC 7517 section 5) as far as its form goes.

    :returns: its keys, of whatever kinds
    :raises BadValue: it is none
    """
    try:
        found = json.loads(text)
    except ValueError:
        raise BadValue("this is not JSON", _KEYS_HINT) from None
    except RecursionError:
        raise BadValue("this is nested too deep", _KEYS_HINT) from None
    keys = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(keys, list) or not all(isinstance(key, dict) and isinstance(key.get("kty"), str) for key in keys):
        raise BadValue("this is not a JWK Set", _KEYS_HINT)
    return keys


def may_verify(key: dict[str, Any]) -> bool:
    """Whether a key of a set, by its form, may verify a token's signature (RFC 7517 section 4, RFC 7518 section 6)."""
    operations = key.get("key_ops", ["verify"])
    if key.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        return False
    if key["kty"] == "RSA":
        modulus = key.get("n")
        return isinstance(modulus, str) and len(modulus) >= _SHORTEST_MODULUS and isinstance(key.get("e"), str)
    names = {"EC": ("x", "y"), "OKP": ("x",)}.get(key["kty"], ())
    return bool(names) and key.get("crv") in _CURVES and all(isinstance(key.get(name), str) for name in names)


def check_users(path: str) -> str:
    """Read a file of users. :returns: its text. :raises BadValue: it cannot be used"""
    text = read_text(path)
    try:
        parse_users(text)
    except BadValue as error:
        raise BadValue(f"{path}, {error.message}", error.hint) from None
    return text


def check_key_set(path: str) -> str:
    """Read a file of keys. :returns: its text. :raises BadValue: it cannot be used"""
    text = read_text(path)
    try:
        parse_key_set(text)
    except BadValue as error:
        raise BadValue(f"{path}: {error.message}", error.hint) from None
    return text


class KeyServer(NamedTuple):
    """Where a key set is fetched."""

    refresh: float
    """seconds between two fetches"""
    cas: tuple[str, ...]
    """files of the CAs that may have issued its certificate"""
    system_cas: bool
    """whether the system's CAs may, too"""
    routes: tuple[str, ...]
    """those that need it"""


class Credentials(NamedTuple):
    """Everything that routes need to check credentials, as it was read at one time, and where the rest is fetched."""

    users: dict[str, str]
    """texts of files, by absolute path; those of ``key_sets`` and ``cas`` likewise"""
    key_sets: dict[str, str]
    cas: dict[str, str]
    """PEM, of servers that are asked: for keys or about requests"""
    servers: dict[str, KeyServer]
    """by URL"""

    def __repr__(self) -> str:
        return f"Credentials({', '.join((*self.files, *self.servers))})"  # hashes belong in no log

    @classmethod
    def none(cls) -> Credentials:
        """Of a configuration whose routes ask for none."""
        return cls({}, {}, {}, {})

    @classmethod
    def read(cls, config: Config) -> Credentials:
        """Read the files. :raises BadValue: one cannot be used"""
        found = cls.none()
        for route in config.routes:
            auth = route.auth
            if auth is None:
                continue
            if auth.basic is not None:
                found.users[auth.basic.users] = check_users(auth.basic.users)
            for method in (auth.jwt, auth.forward):
                if method is not None and method.ca is not None:
                    found.cas[method.ca] = check_ca_file(method.ca)
            if auth.jwt is not None and auth.jwt.keys is not None:
                keys, ca = auth.jwt.keys, auth.jwt.ca
                if is_url(keys):
                    server = KeyServer(auth.jwt.refresh, () if ca is None else (ca,), ca is None, (route.name,))
                    found.servers[keys] = _both(found.servers.get(keys, server), server)
                else:
                    found.key_sets[keys] = check_key_set(keys)
        return found

    @property
    def files(self) -> list[str]:
        """Paths of all files."""
        return list(dict.fromkeys((*self.users, *self.key_sets, *self.cas)))

    @property
    def texts(self) -> dict[str, str]:
        """What workers look credentials up in: users, keys and CAs of files, by path."""
        return {**self.users, **self.key_sets, **self.cas}


def _both(one: KeyServer, other: KeyServer) -> KeyServer:
    """What two routes that name the same URL need together."""
    return KeyServer(
        min(one.refresh, other.refresh),
        tuple(dict.fromkeys((*one.cas, *other.cas))),
        one.system_cas or other.system_cas,
        tuple(dict.fromkeys((*one.routes, *other.routes))),
    )


def check_ca_file(path: str) -> str:
    """Read a file of CAs. :returns: its text. :raises BadValue: it cannot be used"""
    from gateway.config.pem import check_ca, read_pem

    check_ca(path)
    return read_pem(path)


def is_url(source: str) -> bool:
    """Whether a key set is fetched, rather than read from a file."""
    return source.startswith(("http://", "https://"))


def shown(source: str) -> str:
    """A source as people are shown it: a URL without its query, which may be secret."""
    return urlsplit(source)._replace(query="").geturl() if is_url(source) else source
