"""Fetches a key set over HTTP. Imported only where there is one: aiohttp takes a while."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urljoin, urlsplit

import aiohttp

from gateway.version import VERSION

TIMEOUT_SECONDS = 5.0
"""For the whole answer, redirects included."""

MAX_BYTES = 1 << 20
MAX_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)

Fetch = Callable[[str, Sequence[str], bool], Awaitable[str]]
"""Arguments as of :func:`fetch`."""


class NotFetched(ValueError):
    """Nothing that could be used was fetched; ``str()`` says why."""


async def fetch(url: str, cas: Sequence[str], system_cas: bool) -> str:
    """Fetch a text. Proxies that the environment names are not used.

    :param cas: PEM of CAs that may have issued the server's certificate
    :param system_cas: whether those of the system may, too
    :raises NotFetched: it cannot be fetched
    """
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            connector = aiohttp.TCPConnector(force_close=True, ssl=_context(cas, system_cas))
            async with aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False, trust_env=False
            ) as session:
                return (await _fetch(session, url)).decode()
    except TimeoutError:
        raise NotFetched(f"no answer within {TIMEOUT_SECONDS:g} s") from None
    except UnicodeDecodeError:
        raise NotFetched("the answer is not UTF-8") from None
    except aiohttp.ClientConnectorCertificateError as error:
        raise NotFetched(f"its certificate is not accepted: {error.certificate_error}") from None
    except aiohttp.ClientConnectorError as error:
        raise NotFetched(f"cannot connect: {_reason(error.os_error)}") from None
    except aiohttp.ClientError as error:
        raise NotFetched(f"the answer broke off or is malformed ({type(error).__name__})") from None
    except OSError as error:
        raise NotFetched(f"cannot connect: {_reason(error)}") from None


async def _fetch(session: aiohttp.ClientSession, url: str) -> bytes:
    # Uncompressed, so that the bound holds for what is kept in memory.
    fields = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": f"upgrade-gateway/{VERSION}"}
    for _ in range(MAX_REDIRECTS + 1):
        async with session.get(url, headers=fields, allow_redirects=False) as answer:
            if answer.status in _REDIRECTS and "Location" in answer.headers:
                target = urljoin(url, answer.headers["Location"])
                if urlsplit(target).scheme != urlsplit(url).scheme:
                    raise NotFetched("it redirects to another scheme")
                url = target
                continue
            if answer.status != 200:
                raise NotFetched(f"the answer has status {answer.status}")
            content = bytearray()
            async for piece in answer.content.iter_any():
                content += piece
                if len(content) > MAX_BYTES:
                    raise NotFetched(f"the answer has more than {MAX_BYTES} bytes")
            return bytes(content)
    raise NotFetched(f"it redirects more than {MAX_REDIRECTS} times")


def _reason(error: OSError) -> str:
    """What asyncio says of a failed connection has the address in it, which is known, and no reason."""
    if isinstance(error, socket.gaierror) or not error.errno or error.errno < 0:
        return (error.strerror or str(error) or type(error).__name__).lower()
    return os.strerror(error.errno).lower()


def _context(cas: Sequence[str], system_cas: bool) -> ssl.SSLContext:
    if not cas:
        return ssl.create_default_context()
    context = ssl.create_default_context(cadata="\n".join(cas))
    if system_cas:
        context.load_default_certs()
    return context
