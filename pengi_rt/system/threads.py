"""How many threads this process may use: fewer than the machine's cores in a container or a job.

A pool larger than the quota is stopped by the scheduler in the middle of its work, and then every
operator waits for the slowest of its threads.
"""

import math
import os
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
    """Threads worth starting: allowed cores, the CPU quota rounded up, or ``OMP_NUM_THREADS``.

    The least of the three, and at least 1.

    Args:
        environ: where ``OMP_NUM_THREADS`` is looked up; a list (``4,2``) counts by its first item.
        root: where the cgroup file systems are mounted.
        membership: which cgroups this process is in.

    Raises:
        UsageError: ``OMP_NUM_THREADS`` is no positive number.
    """
    quota = cgroup_quota(root=root, membership=membership)
    limits = (affinity_cores(), quota and math.ceil(quota), _omp_threads(environ))
    return max(1, min(limit for limit in limits if limit))


def affinity_cores() -> int:
    """Cores that the scheduler may put this process on."""
    return len(os.sched_getaffinity(0))


def cgroup_quota(*, root: Path = CGROUP_ROOT, membership: Path = CGROUP_MEMBERSHIP) -> float | None:
    """Cores' worth of CPU time that the process' cgroups (v1 or v2) grant it; ``None``: no limit.

    A group's limit holds for all groups inside it, so the tightest up to the root counts. In a
    container the path may be the host's: then only the root is there, and is the container's own.
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
    """The process' CPU control groups and all above them."""
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
    """``threads`` as a caller asked for it; by default :func:`available_threads`.

    Raises:
        UsageError: it is no whole number of at least 1.
    """
    if threads is None:
        return available_threads()
    if not isinstance(threads, int) or isinstance(threads, bool) or threads < 1:
        raise UsageError(f"threads must be at least 1 and a whole number, got {threads!r}")
    return threads
