"""Commands that are run in this process, and an admin address for them to ask."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from click.testing import CliRunner, Result

from gateway.admin.server import start_admin

from ..admin.gateways import FakeGateway


@contextmanager
def serving(gateway: FakeGateway, sock: socket.socket, directory: object) -> Iterator[None]:
    """Serve a gateway's admin address from a thread, as commands block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def wait_for(work):
        return asyncio.run_coroutine_threadsafe(work, loop).result(10)

    server = wait_for(start_admin(gateway.state, sock, str(directory), gateway.operations))
    try:
        yield
    finally:
        wait_for(server.close())
        wait_for(loop.shutdown_default_executor())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        gateway.table.close()


def run(command, *args: str) -> Result:
    return CliRunner().invoke(command, args)
