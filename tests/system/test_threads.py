"""Threads follow the affinity mask, the cgroup quota (v1 and v2) and OMP_NUM_THREADS."""

import os
from pathlib import Path

import pytest

from pengi_rt.errors import UsageError
from pengi_rt.system import threads
from pengi_rt.system.threads import affinity_cores, available_threads, cgroup_quota


class Groups:
    """A fake cgroup tree, and the file that gives this process's place in it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "cgroup"
        self.membership = folder / "self_cgroup"
        self.membership.write_text("")

    def join(self, *lines: str) -> None:
        self.membership.write_text("".join(line + "\n" for line in lines))

    def limit_v2(self, group: str, text: str) -> None:
        self._write(group, "cpu.max", text)

    def limit_v1(self, group: str, quota: int, period: int = 100_000) -> None:
        self._write(group, "cpu.cfs_quota_us", f"{quota}\n")
        self._write(group, "cpu.cfs_period_us", f"{period}\n")

    def _write(self, group: str, name: str, text: str) -> None:
        folder = self.root / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)

    def quota(self) -> float | None:
        return cgroup_quota(root=self.root, membership=self.membership)

    def threads(self, **environ: str) -> int:
        return available_threads(environ, root=self.root, membership=self.membership)


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Groups:
    monkeypatch.setattr(threads, "affinity_cores", lambda: 16)
    return Groups(tmp_path)


def test_affinity_is_the_scheduler_s() -> None:
    allowed = os.sched_getaffinity(0)
    assert affinity_cores() == len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert affinity_cores() == 1
        assert available_threads({}) == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_without_limits_all_allowed_cores(groups: Groups) -> None:
    assert groups.quota() is None
    assert groups.threads() == 16
    groups.membership.unlink()
    assert groups.threads() == 16


@pytest.mark.parametrize(
    ("text", "quota", "count"),
    [
        ("max 100000\n", None, 16),
        ("200000 100000\n", 2.0, 2),
        ("250000 100000\n", 2.5, 3),
        ("50000 100000\n", 0.5, 1),
        ("6400000 100000\n", 64.0, 16),
        ("nonsense\n", None, 16),
        ("", None, 16),
    ],
)
def test_v2_quota_is_rounded_up(groups: Groups, text: str, quota: float | None, count: int) -> None:
    groups.join("0::/job")
    groups.limit_v2("job", text)
    assert groups.quota() == quota
    assert groups.threads() == count


def test_v2_tightest_group_counts(groups: Groups) -> None:
    groups.join("0::/slice/job/step")
    groups.limit_v2("slice/job/step", "max 100000")
    groups.limit_v2("slice/job", "800000 100000")
    groups.limit_v2("slice", "300000 100000")
    groups.limit_v2("other", "100000 100000")
    assert groups.quota() == 3.0


def test_container_that_sees_the_host_s_path(groups: Groups) -> None:
    groups.join("0::/kubepods/pod1/abc")
    groups.limit_v2("", "400000 100000")
    assert groups.threads() == 4


def test_namespaced_path_stays_inside_the_tree(groups: Groups) -> None:
    groups.join("0::/../../elsewhere")
    groups.limit_v2("", "400000 100000")
    assert groups.threads() == 4


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
def test_v1(groups: Groups, mount: str) -> None:
    groups.join("5:memory:/docker/abc", "4:cpu,cpuacct:/docker/abc", "1:name=systemd:/docker")
    groups.limit_v1(f"{mount}/docker/abc", 150_000)
    assert groups.quota() == 1.5
    assert groups.threads() == 2


def test_v1_without_limit(groups: Groups) -> None:
    groups.join("4:cpu:/")
    groups.limit_v1("cpu", -1)
    assert groups.threads() == 16


def test_v1_limits_of_other_controllers_are_ignored(groups: Groups) -> None:
    groups.join("3:cpuset:/a", "2:cpuacct:/a")
    groups.limit_v1("cpu/a", 100_000)
    groups.limit_v1("cpuacct/a", 100_000)
    assert groups.threads() == 16


def test_v1_and_v2_side_by_side(groups: Groups) -> None:
    groups.join("4:cpu:/a", "0::/a")
    groups.limit_v1("cpu/a", 500_000)
    groups.limit_v2("unified/a", "300000 100000")
    assert groups.threads() == 3


@pytest.mark.parametrize(
    ("value", "count"), [("3", 3), (" 2 ", 2), ("4,2,1", 4), ("64", 16), ("", 16)]
)
def test_omp_num_threads(groups: Groups, value: str, count: int) -> None:
    assert groups.threads(OMP_NUM_THREADS=value) == count


def test_tightest_of_all_counts(groups: Groups) -> None:
    groups.join("0::/job")
    groups.limit_v2("job", "300000 100000")
    assert groups.threads(OMP_NUM_THREADS="2") == 2
    assert groups.threads(OMP_NUM_THREADS="8") == 3


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", ",2", "²"])
def test_wrong_omp_num_threads_is_refused(groups: Groups, value: str) -> None:
    with pytest.raises(UsageError, match=f"OMP_NUM_THREADS must be .* got '{value}'"):
        groups.threads(OMP_NUM_THREADS=value)
