"""The CPU time of process trees, from /proc."""

import os
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(root: int) -> float:
    """What a process, its descendants, and the children that these have waited for, have used."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    ticks: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            # proc_pid_stat(5): behind the name come the state, the parent's number, and at 11 to 14 the times.
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            children[int(fields[1])].append(int(entry.name))
            ticks[int(entry.name)] = sum(map(int, fields[11:15]))
    total, pids = 0, [root]
    while pids:
        pid = pids.pop()
        total += ticks.get(pid, 0)
        pids += children[pid]
    return total / _TICKS
