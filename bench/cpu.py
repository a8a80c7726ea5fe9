"""What a proxy costs: processor time and memory of its whole process tree, as Linux accounts for them."""

import time
from pathlib import Path

CPUCLOCK_SCHED = 2
PROC = Path("/proc")


def tree(leader: int) -> frozenset[int]:
    """Returns the pids of `leader`, its descendants, and whatever else is in the session it leads."""
    parents: dict[int, int] = {}
    found = {leader}
    for entry in PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        pid, state, parent, session = int(entry.name), fields[0], int(fields[1]), int(fields[3])
        if state == "Z":
            continue
        parents[pid] = parent
        if session == leader:
            found.add(pid)
    while True:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        if not more:
            return frozenset(found)
        found |= more


def cpu_seconds(pids: frozenset[int]) -> float:
    """Returns the user and system time that `pids` have used, all threads, ended ones included.

    The sum of utime and stime in /proc/PID/stat, read through the processes' CPU clocks, which count in
    nanoseconds and not in ticks of 10 ms: clock_getcpuclockid(3). Raises
    ProcessLookupError when one has ended.
    """
    try:
        return sum(time.clock_gettime((~pid << 3) | CPUCLOCK_SCHED) for pid in pids)
    except OSError as error:
        raise ProcessLookupError("a process of the proxy has ended") from error


def memory_bytes(pids: frozenset[int]) -> int:
    """Returns the memory that only `pids` hold: their anonymous and shared-memory pages.

    A page that several of them share (a forked heap, a memfd) counts once (`Pss` divides it among its users).
    Pages of files on disk (the program's code) are left out: they are not a tunnel's. Raises
    ProcessLookupError when one has ended.
    """
    return _sum_of(pids, ("Pss_Anon", "Pss_Shmem"))


def proportional_bytes(pids: frozenset[int]) -> int:
    """Returns all memory of `pids`, the pages of files included, each page divided among the processes that map it.

    Raises ProcessLookupError when one has ended.
    """
    return _sum_of(pids, ("Pss",))


def _sum_of(pids: frozenset[int], fields: tuple[str, ...]) -> int:
    total = 0
    for pid in pids:
        try:
            lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
        except FileNotFoundError as error:
            raise ProcessLookupError("a process of the proxy has ended") from error
        for line in lines:
            name, _, rest = line.partition(":")
            if name in fields:
                total += int(rest.split()[0]) * 1024
    return total
