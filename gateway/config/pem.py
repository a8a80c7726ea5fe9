"""PEM files that a configuration names: certificates, their keys, and the CAs that are trusted.

Paths are relative to the directory of the configuration, so `gateway check` finds the same files from anywhere.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import PlainValidator, WithJsonSchema

from gateway.config.errors import BadValue
from gateway.config.files import open_file
from gateway.config.paths import path_of

if TYPE_CHECKING:
    from ssl import SSLError

MAX_FILE_BYTES = 4 << 20
"""The CAs of a whole system take a quarter of a MiB."""

_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
_KEY = b"PRIVATE KEY-----"
_ENCRYPTED = (b"-----BEGIN ENCRYPTED PRIVATE KEY-----", b"Proc-Type: 4,ENCRYPTED")
_CERTIFICATE_HINT = "a PEM file that begins with the certificate, followed by those of its issuers"
_KEY_HINT = "a PEM file with the private key of the certificate"


PemPath = Annotated[str, PlainValidator(path_of("a PEM file")), WithJsonSchema({"type": "string", "minLength": 1})]
"""The path of a PEM file. In a `Config` it is absolute."""


def check_ca(path: str) -> None:
    """Check a file of CAs. :raises BadValue: it cannot be used"""
    import ssl

    hint = "a PEM file with the certificates of the CAs that are trusted"
    content = _read(path, hint)
    if _CERTIFICATE not in content:
        raise BadValue(f"{path} holds no certificate", hint)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError as error:
        raise BadValue(f"{path} cannot be read as certificates: {_reason(error)}", hint) from None


def read_pem(path: str) -> str:
    """The text of a PEM file. :raises BadValue: it cannot be read"""
    return _read(path, "a PEM file").decode("utf-8", "replace")


def mistakes_in_pair(cert: str, key: str | None) -> Iterator[tuple[Literal["cert", "key"], BadValue]]:
    """Yield what is wrong with a certificate and its key. :param key: None if it is in the certificate's file"""
    import ssl

    usable = True
    texts: dict[Literal["cert", "key"], tuple[str, bytes, str]] = {"cert": (cert, _CERTIFICATE, _CERTIFICATE_HINT)}
    if key is not None:
        texts["key"] = (key, _KEY, _KEY_HINT)
    for name, (path, mark, hint) in texts.items():
        try:
            _check_text(path, mark, hint, is_key=name == "key" or key is None)
        except BadValue as error:
            usable = False
            yield name, error
    if not usable:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        # Without a password OpenSSL would ask for one at the terminal.
        context.load_cert_chain(cert, key, password="")
    except (ssl.SSLError, OSError) as error:
        reason = _reason(error) if isinstance(error, ssl.SSLError) else str(error)
        if reason == "key values mismatch":
            at: Literal["cert", "key"] = "cert" if key is None else "key"
            yield at, BadValue(f"the key in {key or cert} is not that of the certificate in {cert}", _KEY_HINT)
        else:
            yield "cert", BadValue(f"{cert} and its key cannot be used: {reason}", _CERTIFICATE_HINT)


def _check_text(path: str, mark: bytes, hint: str, is_key: bool) -> None:
    """:raises BadValue: the file cannot be read, or has nothing of the kind"""
    content = _read(path, hint)
    if mark not in content:
        raise BadValue(f"{path} holds no {'certificate' if mark is _CERTIFICATE else 'private key'}", hint)
    if is_key and mark is _CERTIFICATE and _KEY not in content:
        raise BadValue(f"{path} holds no private key", "the key in the same file, or `key` with the path of its own")
    if is_key and any(each in content for each in _ENCRYPTED):
        raise BadValue(f"the key in {path} is encrypted", "a key without a password, in a file that others cannot read")


def _read(path: str, hint: str) -> bytes:
    """:raises BadValue: the file cannot be read"""
    try:
        with open_file(path) as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise BadValue(f"there is no file {path}", hint) from None
    except PermissionError:
        raise BadValue(f"this user may not read {path}", "read permission for the gateway's user") from None
    except OSError as error:
        raise BadValue(f"{path} cannot be read: {(error.strerror or str(error)).lower()}", hint) from None
    if len(content) > MAX_FILE_BYTES:
        raise BadValue(f"{path} has more than {MAX_FILE_BYTES} bytes", hint)
    return content


def _reason(error: "SSLError") -> str:
    """OpenSSL's reason, in its words."""
    return (error.reason or str(error)).replace("_", " ").lower()
