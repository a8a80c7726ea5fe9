"""Maps a table into a process, and keeps it out of core dumps: it holds the keys of TLS connections."""

from __future__ import annotations

import mmap


def map_table(fd: int, size_bytes: int, read_only: bool = False) -> mmap.mmap:
    """Map a table.

    :param fd: of the table; it can be closed afterwards
    :param size_bytes: of the table
    :raises OSError: there is no address space for it
    """
    prot = mmap.PROT_READ if read_only else mmap.PROT_READ | mmap.PROT_WRITE
    mapped = mmap.mmap(fd, size_bytes, prot=prot)
    if hasattr(mmap, "MADV_DONTDUMP"):  # Linux has it, other systems may not
        mapped.madvise(mmap.MADV_DONTDUMP)
    return mapped
