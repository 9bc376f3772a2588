"""Reports about packages and machines are true, even for broken packages."""

import importlib.metadata
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

from pengi_rt.system import machine as environment
from pengi_rt.system.machine import loaded_package, machine, package, requirements

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"

X86 = """\
processor\t: 0
model name\t: Some CPU @ 2.00GHz
flags\t\t: fpu avx avx2 fma avx512f avx512_vnni amx_int8
bugs\t\t:

processor\t: 1
model name\t: Some CPU @ 2.00GHz
flags\t\t: fpu avx avx2 fma avx512f avx512_vnni amx_int8
"""
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd asimddp i8mm\n"


def test_lowest_versions_are_the_project_s() -> None:
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    core, extras = ([f"{each.name}{each.specifier}" for each in group] for group in requirements())
    assert sorted(core) == sorted(project["dependencies"])
    assert set(extras) == {
        line.split(";")[0] for group in project["optional-dependencies"].values() for line in group
    }


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """An installed package ``fake``, version 1.23.2."""
    versions = {"fake": "1.23.2"}

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr("pengi_rt.system.machine.importlib.metadata.version", version)
    module = ModuleType("fake")
    monkeypatch.setitem(sys.modules, "fake", module)
    return module


@pytest.mark.parametrize(
    ("least", "old"), [("1.24", True), ("1.23", False), ("1.23.2", False), ("2", True)]
)
def test_old_packages_are_flagged(fake: ModuleType, least: str, old: bool) -> None:
    found = package(Requirement(f"fake>={least}"))
    assert found.version == "1.23.2"
    assert found.problem == (f"is too old: pip install 'fake>={least}'" if old else None)


@pytest.mark.parametrize("version", ["1.24.0rc1", "1.24+cpu", "1.24.dev20250101"])
def test_versions_of_every_kind(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr("pengi_rt.system.machine.importlib.metadata.version", lambda _: version)
    assert package(Requirement("fake>=1.24")).problem is None
    assert package(Requirement("fake>=1.25")).problem is not None


def test_missing_package(fake: ModuleType) -> None:
    assert package(Requirement("missing")).problem == "is not installed"
    assert loaded_package(Requirement("missing")).version is None


def test_package_whose_binary_is_broken(fake: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> ModuleType:
        raise OSError("libgomp.so.1: cannot open shared object file\n  no such file")

    monkeypatch.setattr(environment, "import_module", fail)
    assert loaded_package(Requirement("fake>=1")).problem == (
        "cannot be imported: libgomp.so.1: cannot open shared object file no such file"
    )


def test_core_packages_of_this_machine_load() -> None:
    core, _ = requirements()
    for wanted in core:
        found = loaded_package(wanted)
        assert found.problem is None
        assert found.version == importlib.metadata.version(wanted.name)
    assert "CPUExecutionProvider" in loaded_package(Requirement("onnxruntime")).details
    assert "FLAC" in loaded_package(Requirement("soundfile")).details


def test_native_kernels_that_do_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pengi_rt._core", None)
    assert "pengi_rt._core" in (environment.native_kernels() or "")


@pytest.mark.parametrize(
    ("cpuinfo", "cpu", "flags"),
    [
        (X86, "Some CPU @ 2.00GHz", ("avx2", "fma", "avx512f", "avx512_vnni", "amx_int8")),
        (ARM, "unknown", ("asimd", "asimddp", "i8mm")),
        ("", "unknown", ()),
    ],
)
def test_machine(tmp_path: Path, cpuinfo: str, cpu: str, flags: tuple[str, ...]) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    (tmp_path / "meminfo").write_text("MemTotal:  1000 kB\nMemAvailable:   500 kB\nHuge: 2\n")
    found = machine(tmp_path)
    assert (found.cpu, found.cpu_flags) == (cpu, flags)
    assert (found.memory, found.available_memory) == (1_024_000, 512_000)
    assert 1 <= (found.threads or 0) <= found.allowed_cores <= found.cores


def test_machine_without_proc(tmp_path: Path) -> None:
    found = machine(tmp_path)
    assert (found.cpu, found.cpu_flags, found.memory) == ("unknown", (), None)


def test_cache_that_can_and_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "not" / "yet"))
    assert machine().cache == str(tmp_path / "not" / "yet" / "pengi-rt")
    assert machine().cache_writable
    assert not (tmp_path / "not").exists()
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert not machine().cache_writable
