"""Files of users and keys, as text. Text that is valid is what workers are sent; they parse it the same way."""

from __future__ import annotations

import json
import re
from typing import Any

from gateway.config.errors import BadValue
from gateway.config.words import quoted

MAX_BYTES = 4 << 20
"""Tens of thousands of users."""

_ARGON2 = re.compile(r"\$argon2(id|i|d)\$v=\d+\$m=\d+,t=\d+,p=\d+\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+")
_BCRYPT = re.compile(r"\$2[aby]\$\d\d\$[./A-Za-z0-9]{53}")
_USERS_HINT = "lines such as those of `htpasswd -nB NAME`: name:$2y$…"
_KEYS_HINT = 'a JSON object with a list of "keys" (RFC 7517 section 5)'


def read_text(path: str) -> str:
    """The text of a file. :raises BadValue: it cannot be read"""
    try:
        with open(path, "rb") as file:
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
        if not _ARGON2.fullmatch(digest) and not _BCRYPT.fullmatch(digest):
            raise BadValue(f"line {number}: the hash of {quoted(name)} is neither of argon2 nor bcrypt", _USERS_HINT)
        if name in users:
            raise BadValue(f"line {number}: {quoted(name)} is there already", "one line for each user")
        users[name] = digest
    return users


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
