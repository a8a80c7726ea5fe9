"""Requests of commands to the running gateway's admin address, and its answers."""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

import click

from gateway.cli.loading import load_admin_or_exit
from gateway.cli.output import visible

TOKEN_VARIABLE = "GATEWAY_ADMIN_TOKEN"
PATIENCE_SECONDS = 10.0
STEP_SECONDS = 0.1
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}

admin_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--admin", metavar="URL", help="Admin address, instead of the configuration's: http://host:port or unix:/path."
)
json_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--json", "as_json", is_flag=True, help="Print the admin API's answer."
)


class AdminAddress(NamedTuple):
    """Where the running gateway answers, and the token that it asks for."""

    address: str
    """``http://host:port``, ``host:port`` or ``unix:/path``"""
    token: str | None

    def __str__(self) -> str:
        return self.address


class NoAnswer(click.ClickException):
    """The gateway did not answer; exit status 1."""


class Refused(click.ClickException):
    """The gateway rejected the query; exit status 2."""

    exit_code = 2


class NotDone(click.ClickException):
    """The gateway did not carry out the command; exit status 1."""


def ask(path: str, config_path: str, admin: str | AdminAddress | None, query: dict[str, str] | None = None) -> Any:
    """Return the running gateway's answer to ``GET`` of a path of its admin API.

    :param path: such as ``/api/v1/status``
    :param config_path: configuration file with the admin address, unless ``admin`` is given
    :param admin: ``http://host:port``, ``host:port`` or ``unix:/path``; the environment may have a token for it
    :raises NoAnswer: nothing answers there, or something other than a gateway
    :raises Refused: the gateway rejects the query
    :raises click.UsageError: ``admin`` is not an address
    """
    target = admin if isinstance(admin, AdminAddress) else address_of(config_path, admin)
    return _exchange("GET", path, target, query, PATIENCE_SECONDS)


def order(
    path: str, address: AdminAddress, query: dict[str, str] | None = None, patience_seconds: float | None = None
) -> Any:
    """Return the running gateway's answer to ``POST`` to a path of its admin API, once it has carried that out.

    :param path: such as ``/api/v1/reload``
    :param address: see :func:`address_of`
    :param patience_seconds: how long that may take; no limit if absent
    :raises NotDone: the gateway could not do it, or refused to
    :raises NoAnswer: as :func:`ask`
    :raises Refused: as :func:`ask`
    :raises click.UsageError: as :func:`ask`
    """
    return _exchange("POST", path, address, query, patience_seconds)


def address_of(config_path: str, admin: str | None, status: int = 2) -> AdminAddress:
    """Return the running gateway's admin address: ``admin``, or the address in its configuration.

    The rest of the configuration may have errors, since it has not been applied yet.

    :param status: exit status if the configuration's admin address cannot be read
    """
    token = _token_given()
    if admin is not None:
        return AdminAddress(admin, token)  # the configuration's token is not sent there
    configured = load_admin_or_exit(config_path, status, token)
    return AdminAddress(str(configured.address), configured.token)


def _token_given() -> str | None:
    """The environment's token. :raises click.UsageError: it is none, and could not be sent"""
    from gateway.config.admin_token import parse_token  # imports pydantic

    try:
        return parse_token(os.environ.get(TOKEN_VARIABLE))
    except ValueError as error:
        raise click.UsageError(f"{TOKEN_VARIABLE} {error}.") from None


def wait_until_gone(address: AdminAddress) -> None:
    """Wait until nothing answers at the admin address any more.

    :raises NotDone: that takes too long
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        connection, _ = _connect(address.address, PATIENCE_SECONDS)
        try:
            connection.connect()
        except OSError:
            return
        finally:
            connection.close()
        time.sleep(STEP_SECONDS)
    raise NotDone(f"the gateway at {address} is still running after {PATIENCE_SECONDS:.0f} s")


def _exchange(
    method: str, path: str, address: AdminAddress, query: dict[str, str] | None, patience_seconds: float | None
) -> Any:
    connection, prefix = _connect(address.address, patience_seconds)
    target = prefix + path + (f"?{urlencode(query)}" if query else "")
    try:
        headers = {"Accept": "application/json"}
        if address.token is not None:
            headers["Authorization"] = f"Bearer {address.token}"
        connection.request(method, target, headers=headers)
        response = connection.getresponse()
        status, body = response.status, response.read()
    except TimeoutError:
        raise NoAnswer(f"{address} did not answer within {patience_seconds:.0f} s.") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        hint = "is the gateway running? `gateway run` starts it, --admin names another address"
        raise NoAnswer(f"no gateway answers at {address}: {reason} ({hint})") from None
    except http.client.HTTPException:
        raise NoAnswer(f"what answers at {address} is not a gateway's admin address (--admin names another)") from None
    finally:
        connection.close()
    return _understood(address, status, body)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, patience_seconds: float | None) -> None:
        super().__init__("localhost", timeout=patience_seconds)
        self._path = path

    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(self.timeout)
            sock.connect(self._path)
        except BaseException:
            sock.close()
            raise
        self.sock = sock


def _connect(address: str, patience_seconds: float | None) -> tuple[http.client.HTTPConnection, str]:
    """Return an unopened connection, and the prefix of its paths. Proxy settings in the environment are ignored."""
    if address.startswith("unix:"):
        return _UnixConnection(address.removeprefix("unix:"), patience_seconds), ""
    try:
        url = urlsplit(address if "://" in address else f"http://{address}")
        host, port = url.hostname, url.port
    except ValueError:
        host, port, url = None, None, urlsplit("")
    if url.scheme not in ("http", "https") or not host:
        raise click.UsageError(f"--admin {address}: expected http://host:port or unix:/path.")
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    return kind(_WILDCARDS.get(host, host), port, timeout=patience_seconds), url.path.rstrip("/")


def _understood(address: AdminAddress, status: int, body: bytes) -> Any:
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if status in (200, 202) and isinstance(answer, dict):
        return answer
    if isinstance(answer, dict) and "error" in answer:
        if status == 400:
            raise Refused(visible(answer["error"]))
        if status == 401:
            hint = f"set {TOKEN_VARIABLE}, or admin.token in the configuration"
            raise NotDone(f"{address} asks for another token ({hint})")
        if status in (403, 409, 421):
            raise NotDone("\n".join(map(visible, str(answer["error"]).splitlines())))
    raise NoAnswer(
        f"what answers at {address} is not a gateway's admin address: it answers {status} (--admin names another)"
    )
