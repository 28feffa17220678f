"""What a measurement should know of the machine: facts, and who else used the processors.

Linux only, from /proc: elsewhere the facts are fewer and disturbance is unknown (None).
"""

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01
_STEAL, _GUEST = 7, 8  # places in a `cpu` line of /proc/stat; guest time is in user time already
_IDLE = (3, 4)  # idle and waiting for disks


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Processor seconds since the machine started, all processors together. [s]

    Attributes:
        busy_s: Spent by anyone on this machine.
        steal_s: Taken away by its host.
        ours_s: Of `busy_s`, what the processes of the measurement spent.
    """

    busy_s: float
    steal_s: float
    ours_s: float

    def __sub__(self, earlier: "CpuTimes") -> "CpuTimes":
        return CpuTimes(
            self.busy_s - earlier.busy_s,
            self.steal_s - earlier.steal_s,
            self.ours_s - earlier.ours_s,
        )

    @property
    def foreign_s(self) -> float:
        """Spent by processes that have nothing to do with the measurement. [s]"""
        return max(0.0, self.busy_s - self.ours_s)


def cpu_times(pids: list[int]) -> CpuTimes | None:
    """Read the processors' times; `pids` are the processes of the measurement."""
    try:
        fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    ticks = [int(field) for field in fields]
    busy = sum(ticks[:_STEAL]) - sum(ticks[place] for place in _IDLE)
    ours = sum(_ticks_of(pid) for pid in pids)
    return CpuTimes(busy * _TICK_S, ticks[_STEAL] * _TICK_S, ours * _TICK_S)


def _ticks_of(pid: int) -> int:
    """User and system time of a process, all its threads."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0  # it has ended
    fields = text.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def descendants(pid: int) -> list[int]:
    """A process and everything it has started that still runs."""
    found, left = [], [pid]
    while left:
        parent = left.pop()
        found.append(parent)
        for tasks in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                left += [int(child) for child in tasks.read_text(encoding="ascii").split()]
            except OSError:
                continue
    return found


def command_of(pid: int) -> str:
    """The command line of a process, "" if it has ended."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    return raw.replace(b"\0", b" ").decode("utf-8", errors="replace").strip()


def pin(pid: int, cpus: set[int]) -> None:
    """Let all threads of a process run on these processors only."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            os.sched_setaffinity(int(task.name), cpus)
        except ProcessLookupError:
            continue  # a thread that has just ended


def machine_facts() -> dict[str, Any]:
    """What the machine is: processor, cores, memory, kernel. Nothing that names it or its owner."""
    return {
        "system": platform.system(),
        "kernel": platform.release().split("-")[0],
        "processor": _cpu_field("model name") or platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "avx512": "avx512f" in _cpu_field("flags").split(),
        "memory_bytes": _memory_bytes(),
    }


def _cpu_field(name: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def load() -> float | None:
    """Processes that want to run, mean over a minute."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None
