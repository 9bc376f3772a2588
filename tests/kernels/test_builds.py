"""Every kernel that a full-size model needs compiles for every architecture and fits it.

This says nothing about speed. A kernel that spills registers, or needs more shared memory than the
GPU has, would be slow or fail only on a user's machine.
"""

import importlib
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from kernel_builds import KERNELS, Compiled, compile_kernels, first_builds, kernel_modules
from kernel_table import DOCUMENT, table_of

from pengi_rt.kernels.build import CAPABILITIES, SHARED_BYTES, Build

MODULES = kernel_modules()


def builds(module: str) -> tuple[Build, ...]:
    found: tuple[Build, ...] = importlib.import_module(module).builds()
    return found


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("triton")


@pytest.mark.parametrize("module", MODULES)
def test_one_build_of_every_kernel_fits(module: str, cache: Path) -> None:
    assert_fits(module, first_builds(module), cache)


@pytest.mark.builds
@pytest.mark.parametrize("module", MODULES)
def test_every_build_fits(module: str, cache: Path) -> None:
    assert_fits(module, builds(module), cache)


def assert_fits(module: str, wanted: Sequence[Build], cache: Path) -> None:
    found = compile_kernels([module], cache, names=[build.name for build in wanted])
    assert {(c.name, c.capability) for c in found} == {
        (build.name, capability) for build in wanted for capability in build.capabilities
    }
    assert [c for c in found if c.stack > 0] == [], "registers are spilled"
    assert [c for c in found if c.shared > SHARED_BYTES[c.capability]] == []


def test_names_are_unique() -> None:
    names = [build.name for module in MODULES for build in builds(module)]
    assert len(names) == len(set(names)) > 0
    assert all("|" not in name for name in names)


def test_every_kernel_is_built() -> None:
    """A kernel that is launched but missing from every file's builds would go unchecked."""
    built = {build.kernel.__name__ for module in MODULES for build in builds(module)}
    source = "".join(file.read_text("utf-8") for file in KERNELS.glob("*.py"))
    jitted = re.compile(r"^@triton\.jit.*\ndef (\w+_kernel)\(", re.MULTILINE)
    called = re.compile(r"(?<!def )\b(\w+_kernel)\(")
    assert set(jitted.findall(source)) - set(called.findall(source)) == built


def test_the_document_lists_a_build_of_every_kernel() -> None:
    """Its numbers are not checked, because they depend on the version of Triton."""
    rows = re.findall(r"^\| (\S.*?) \| (sm_.*?) \|", DOCUMENT.read_text("utf-8"), re.MULTILINE)
    assert rows == [
        (build.name, " / ".join(f"sm_{capability}" for capability in sorted(build.capabilities)))
        for module in MODULES
        for build in first_builds(module)
    ]


def test_the_table_has_one_row_per_build() -> None:
    found = [
        Compiled("add 3", 80, 32, 0, 1024),
        Compiled("add 3", 90, 40, 0, 102_400),
        Compiled("add 4", 90, 255, 8, 0),
    ]
    assert table_of(found).splitlines()[2:] == [
        "| add 3 | sm_80 / sm_90 | 32 / 40 | 0 | 1.0 / 100.0 |",
        "| add 4 | sm_90 | 255 | 8 | 0.0 |",
    ]


def test_a_spill_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A product of 256 x 256 with 4 warps does not fit into registers."""
    (tmp_path / "spilling.py").write_text(SPILLING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (found,) = compile_kernels(["spilling"], tmp_path / "cache")
    assert found.capability == CAPABILITIES[-1]
    assert found.stack > 0
    assert found.shared > 0


def test_what_does_not_compile_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = SPILLING.replace('{"p_out": "*fp32"}', "{}")
    (tmp_path / "forgetful.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="while compiling spilling for sm_90"):
        compile_kernels(["forgetful"], tmp_path / "cache")


SPILLING = """
import triton
import triton.language as tl
from pengi_rt.kernels.build import Build

@triton.jit
def kernel(p_out, SIDE: tl.constexpr):
    o = tl.arange(0, SIDE)[:, None] * SIDE + tl.arange(0, SIDE)[None, :]
    x = tl.load(p_out + o)
    y = tl.load(p_out + SIDE * SIDE + o)
    tl.store(p_out + o, tl.dot(x, y, input_precision="ieee") + x * y)

def builds():
    return (Build("spilling", kernel, {"p_out": "*fp32"}, {"SIDE": 64}, 1, 1, (90,)),)
"""
