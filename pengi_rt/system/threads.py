"""How many threads this process may use: in a container or a job, often fewer than all cores.

The scheduler stops a thread pool larger than the quota in the middle of its work, and then every
operator waits for its slowest thread.
"""

import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from pengi_rt.errors import UsageError

CGROUP_ROOT = Path("/sys/fs/cgroup")
CGROUP_MEMBERSHIP = Path("/proc/self/cgroup")

_V1_MOUNTS = ("cpu", "cpu,cpuacct", "cpuacct,cpu")


def available_threads(
    environ: Mapping[str, str] = os.environ,
    *,
    root: Path = CGROUP_ROOT,
    membership: Path = CGROUP_MEMBERSHIP,
) -> int:
    """The number of threads worth starting, at least 1.

    It is the minimum of the allowed cores, the CPU quota rounded up, and ``OMP_NUM_THREADS``.

    Args:
        environ: holds ``OMP_NUM_THREADS``; of a list (``4,2``) the first item counts.
        root: where the cgroup file systems are mounted.
        membership: which cgroups this process is in.

    Raises:
        UsageError: ``OMP_NUM_THREADS`` is not a positive number.
    """
    quota = cgroup_quota(root=root, membership=membership)
    limits = (affinity_cores(), quota and math.ceil(quota), _omp_threads(environ))
    return max(1, min(limit for limit in limits if limit))


def affinity_cores() -> int:
    """The number of cores that this process may run on; all cores if unknown (macOS)."""
    if sys.platform == "darwin":
        return os.cpu_count() or 1
    return len(os.sched_getaffinity(0))


def cgroup_quota(*, root: Path = CGROUP_ROOT, membership: Path = CGROUP_MEMBERSHIP) -> float | None:
    """The CPU time that the process's cgroups (v1 or v2) grant it, in cores; None if unlimited.

    A group's limit applies to all groups inside it, so the tightest one up to the root counts. In a
    container, the path may be the host's: then only the root exists, and is the container's own.
    """
    quotas = [
        quota
        for folder in _folders(root, membership)
        for quota in (_v2_quota(folder), _v1_quota(folder))
        if quota is not None
    ]
    return min(quotas, default=None)


def _omp_threads(environ: Mapping[str, str]) -> int | None:
    text = environ.get("OMP_NUM_THREADS", "").strip()
    if not text:
        return None
    first = text.split(",")[0].strip()
    if not first.isdecimal() or int(first) < 1:
        raise UsageError(f"OMP_NUM_THREADS must be a number of at least 1, got {text!r}")
    return int(first)


def _folders(root: Path, membership: Path) -> Iterator[Path]:
    """The process's CPU control groups and all above them."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in _V1_MOUNTS if controllers else ("", "unified"):
            group = root / mount / path.lstrip("/")
            yield group
            yield from (above for above in group.parents if above.is_relative_to(root / mount))


def _v2_quota(folder: Path) -> float | None:
    with suppress(OSError, ValueError):  # no such file, or "max": no limit
        quota, period = (folder / "cpu.max").read_text().split()
        return int(quota) / int(period)
    return None


def _v1_quota(folder: Path) -> float | None:
    with suppress(OSError, ValueError):
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
        return quota / period if quota > 0 else None
    return None


def checked_threads(threads: int | None) -> int:
    """``threads``, or :func:`available_threads` if None.

    Raises:
        UsageError: ``threads`` is not a whole number of at least 1.
    """
    if threads is None:
        return available_threads()
    if not isinstance(threads, int) or isinstance(threads, bool) or threads < 1:
        raise UsageError(f"threads must be a whole number of at least 1, got {threads!r}")
    return threads
