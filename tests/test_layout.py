"""The house holds together: links, layers, what an import costs, what a wheel holds.

Why it is built so: docs/decisions/0001-layout.md.
"""

import subprocess
import sys
import tarfile
import zipfile
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from import_graph import ROOT, Import, imports, source_files

ROOMS = ("kernels", "export", "training")
MODULES = source_files()
IMPORTS = {name: imports(path.read_text("utf-8")) for name, path in MODULES.items()}

# Rooms that may need the [export], [train] or [gpu] extra; the rest is the runtime.
EXTRAS = (
    *("pengi_rt.models", "pengi_rt.export", "pengi_rt.training"),
    *(f"pengi_rt.backends.{name}" for name in ("torch", "triton", "triton_audio", "triton_cache",
                                               "triton_decoder", "triton_text", "triton_weights",
                                               "device_graph", "cuda_device")),
)  # fmt: skip
WHEEL_BYTES = 20 * 10**6

HEAVY = ("torch", "transformers", "triton", "onnx", "onnxscript", "safetensors", "huggingface_hub")

# What answers: over a session, for the engine.
TASKS = ("generate", "stream", "describe", "embed", "explain", "classification", "retrieval")

# The arrows of DESIGN's table that must not be drawn backwards.
MUST_NOT_IMPORT = {
    "models": ("export", "training", "backends", "decoding", "session", "engine", "cli"),
    "backends": ("export", "training", "decoding", "session", "engine", "cli"),
    "decoding": ("models", "export", "training", "session", *TASKS, "engine", "cli"),
    "session": ("models", "export", "training", *TASKS, "engine", "cli"),
    "reading": ("models", "export", "training", *TASKS, "engine", "cli"),
    **dict.fromkeys(TASKS, ("models", "export", "training", "engine", "cli")),
    "engine": ("models", "export", "training", "cli"),
    "export": ("training", "cli"),
    "training": ("cli",),
}


def within(module: str, *rooms: str) -> bool:
    """Whether ``module`` is one of ``rooms`` or lies inside one."""
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def runtime() -> list[str]:
    return [name for name in MODULES if not within(name, *EXTRAS, "pengi_rt.kernels")]


def cpu_kernels() -> list[str]:
    return [name for name in MODULES if within(name, "pengi_rt.kernels") and name.endswith("_cpu")]


@pytest.mark.parametrize("room", ROOMS)
def test_room_is_linked_and_cannot_shadow_a_package(room: str) -> None:
    link = ROOT / "pengi_rt" / room
    assert link.is_symlink()
    assert link.readlink() == Path("..", room)
    assert (ROOT / room).is_dir()
    assert not (ROOT / room / "__init__.py").exists()


def test_nothing_puts_the_root_in_front_of_the_search_path() -> None:
    assert not (ROOT / "conftest.py").exists()
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_import_reader_sees_every_form() -> None:
    source = """
import torch.nn as nn
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import transformers
class A:
    from onnx import helper
def f():
    import_module("triton")
    from . import x
"""
    found = set(imports(source))
    assert Import("torch.nn", eager=True) in found
    assert Import("transformers", eager=False) in found
    assert Import("onnx.helper", eager=True) in found
    assert Import("triton", eager=False) in found
    assert Import("..x", eager=False) in found


def test_modules_behind_the_links_are_read() -> None:
    assert {"pengi_rt", "pengi_rt.engine"} <= set(MODULES)
    assert [name for name in MODULES if within(name, "pengi_rt.kernels")]
    assert [name for name in MODULES if within(name, "pengi_rt.export")]


@pytest.mark.parametrize("name", [*runtime(), *cpu_kernels()])
def test_runtime_never_imports_what_only_the_extras_bring(name: str) -> None:
    assert [found.module for found in IMPORTS[name] if within(found.module, *HEAVY)] == []


@pytest.mark.parametrize("name", runtime())
def test_runtime_reaches_for_the_extras_only_when_asked(name: str) -> None:
    eager = [found.module for found in IMPORTS[name] if found.eager]
    assert [module for module in eager if within(module, *EXTRAS)] == []


@pytest.mark.parametrize("room", MUST_NOT_IMPORT)
def test_arrows_run_one_way(room: str) -> None:
    inside = [name for name in MODULES if within(name, f"pengi_rt.{room}")]
    assert inside
    forbidden = [f"pengi_rt.{other}" for other in MUST_NOT_IMPORT[room]]
    for other in forbidden:
        assert any(within(name, other) for name in MODULES), f"there is no {other}"
    backwards = {
        (name, found.module)
        for name in inside
        for found in IMPORTS[name]
        if within(found.module, *forbidden)
    }
    assert backwards == set()


def test_kernels_import_nothing_else_of_ours() -> None:
    allowed = ("pengi_rt.kernels", "pengi_rt._core")
    others = {
        (name, found.module)
        for name in MODULES
        if within(name, "pengi_rt.kernels")
        for found in IMPORTS[name]
        if found.module.startswith("pengi_rt.") and not within(found.module, *allowed)
    }
    assert others == set()


def test_there_is_no_circle() -> None:
    graph = {
        name: {found.module for found in IMPORTS[name] if found.eager and found.module in MODULES}
        - {name}
        for name in MODULES
    }
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import pengi_rt", ("numpy", "onnxruntime", *HEAVY)),
        ("from pengi_rt.cli.main import build_parser; build_parser()", ("numpy", *HEAVY)),
        ("from pengi_rt import load, Engine, Plan", (*HEAVY, *ROOMS)),
    ],
)
def test_import_budget(statement: str, unwanted: tuple[str, ...]) -> None:
    loaded = run(f"{statement}; import sys; print(*sys.modules)").split()
    assert "pengi_rt" in loaded
    assert sorted(set(unwanted) & set(loaded)) == []


def test_wheel_holds_every_module_once_and_nothing_else(tmp_path: Path) -> None:
    # scikit-build-core leaves out what git ignores, even when it was added by force.
    name = build("wheel", tmp_path)
    with zipfile.ZipFile(tmp_path / name) as wheel:
        held = sorted(entry for entry in wheel.namelist() if ".dist-info/" not in entry)
        licences = {Path(entry).name for entry in wheel.namelist() if "/licenses/" in entry}
    typing = ["pengi_rt/_core.pyi", "pengi_rt/py.typed"]
    plans = (ROOT / "pengi_rt" / "data").glob("*.plan")
    recipes = (ROOT / "training" / "recipes").rglob("*.toml")
    data = [
        "pengi_rt/tasks.toml",
        *(path.relative_to(ROOT).as_posix() for path in plans),
        *(f"pengi_rt/{path.relative_to(ROOT).as_posix()}" for path in recipes),
    ]
    modules = [path.relative_to(ROOT).as_posix() for path in MODULES.values()]
    assert held == sorted([*modules, *typing, *data])
    assert licences == {"LICENSE", "NOTICE"}
    assert (tmp_path / name).stat().st_size <= WHEEL_BYTES


def test_sdist_keeps_the_links_and_the_sources(tmp_path: Path) -> None:
    name = build("sdist", tmp_path)
    with tarfile.open(tmp_path / name) as sdist:
        members = {Path(*Path(item.name).parts[1:]).as_posix(): item for item in sdist}
    for room in ROOMS:
        assert members[f"pengi_rt/{room}"].linkname == f"../{room}"
        assert [name for name in members if name.startswith(f"{room}/")]
    assert {"CMakeLists.txt", "LICENSE", "NOTICE", "kernels/csrc/beam_step.cpp"} <= members.keys()


def build(kind: str, folder: Path) -> str:
    """The file name of a wheel or sdist made in ``folder``, without compiling."""
    settings = {"wheel.cmake": "false"} if kind == "wheel" else {}
    call = f"build.build_{kind}({str(folder)!r}, {settings!r})"
    return run(f"from scikit_build_core import build; print({call})").splitlines()[-1]


def run(code: str) -> str:
    """What a fresh interpreter prints that runs ``code`` in the root but cannot import from it."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
