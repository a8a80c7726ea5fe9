"""Reads a configuration in a process of its own: ``python -m gateway.config.reading FILE``.

What reads and validates needs a third of the supervisor's memory, and only for a moment. The result comes back through
a pipe, by pickle. The receiver has stand-ins for pydantic (``unvalidated.py``). A process that has imported pydantic
reads the file itself: nothing would be gained.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
import sys
import traceback
from typing import TYPE_CHECKING, Any, NamedTuple

from gateway.config import unvalidated
from gateway.config.errors import ConfigError
from gateway.version import VERSION

if TYPE_CHECKING:
    from gateway.config.schema import Config


class Read(NamedTuple):
    """A configuration that was read."""

    version: str
    """of the program that read it, which may have been installed since this one was started"""
    config: Config
    doubts: list[str]
    """warnings about it"""
    made_later: list[Any]
    """sections with defaults, one for each class of which the methods of others make new ones"""


class Reading:
    """A configuration that is being read."""

    def __init__(self, path: str, at_start: bool = False) -> None:
        """Begin to read a file.

        :param at_start: this process has no descriptors of its own yet; the file may be one that it was given, such as
            ``/dev/fd/63``
        :raises OSError: the system has no room for a process
        """
        self._path = path
        self._process: subprocess.Popen[bytes] | None = None
        if "pydantic" not in sys.modules:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "gateway.config.reading", path],
                stdin=None if at_start else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                close_fds=not at_start,
            )

    def result(self) -> Read:
        """Wait until the file has been read.

        :raises ConfigError: as :func:`gateway.config.load`
        :raises ValueError: the process that was to read it has failed, or is of another version than this one
        """
        if self._process is None:
            return _read(self._path)
        output, _ = self._process.communicate()
        status = self._process.returncode
        result: Read | ConfigError
        try:
            result = pickle.loads(output)
        except Exception:
            how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
            raise ValueError(f"the configuration was not read: the process that was to do it {how}") from None
        if isinstance(result, ConfigError):
            raise result
        if result.version != VERSION:
            raise ValueError(
                f"version {result.version} is installed, and {VERSION} is running: upgrade the gateway instead of"
                " reloading it"
            )
        unvalidated.defaults.update((type(section), section) for section in result.made_later)
        return result

    def close(self) -> None:
        """End it, if the result is not wanted any more."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            self._process.communicate()


def read(path: str) -> Config:
    """Read a file, as :func:`gateway.config.load` does, but in another process where this one has no pydantic.

    :raises ConfigError: as there
    :raises ValueError: the system has no room for that process, or it has failed
    """
    try:
        return Reading(path).result().config
    except OSError as error:
        raise ValueError(f"the configuration was not read: no process can be started for it: {error}") from None


def _read(path: str) -> Read:
    from gateway.config.loader import load_with_doubts
    from gateway.config.schema import KeepaliveSide, Share, Sticky

    config, doubts = load_with_doubts(path)
    return Read(VERSION, config, [str(doubt) for doubt in doubts], [KeepaliveSide(), Share(name=""), Sticky()])


def main() -> None:
    """Read the file that the only argument names, and write the result to standard output."""
    gc.disable()
    # Ctrl-C ends it without a traceback. Other signals to the whole process group are the supervisor's.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    output = os.dup(1)
    os.dup2(2, 1)  # nothing else gets in between
    status = 1
    try:
        result: Read | ConfigError
        try:
            result = _read(sys.argv[1])
        except ConfigError as error:
            result = error
        with open(output, "wb") as file:
            pickle.dump(result, file, pickle.HIGHEST_PROTOCOL)
        status = 0
    except Exception:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)  # skip interpreter shutdown


if __name__ == "__main__":
    # Under its own name, where its classes are found again.
    from gateway.config import reading

    reading.main()
