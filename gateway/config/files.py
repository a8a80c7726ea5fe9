"""Files that a configuration names, as they are opened."""

import errno
import os
import stat
from typing import BinaryIO


def open_file(path: str) -> BinaryIO:
    """Open a file for reading. Opening never blocks: a FIFO without a writer would block its reader for ever.

    :raises OSError: it cannot be opened, or is no regular file
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "Not a regular file", path)
        return open(fd, "rb")
    except BaseException:
        os.close(fd)
        raise
