"""The house holds together: links, layers, what an import costs, what a wheel holds.

Why it is built so: docs/decisions/0001-layout.md.
"""

import ast
import re
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
    *("pengi_rt.backends.torch", "pengi_rt.backends.triton"),
)
WHEEL_BYTES = 20 * 10**6

HEAVY = ("torch", "transformers", "triton", "onnx", "onnxscript", "safetensors", "huggingface_hub")

# The rooms from the top to the bottom. A module imports from its own room and from those below, no
# matter where in the file or why: for types alone, inside a function, by name.
LAYERS = (
    *("__main__", "cli", "training", "export", "render", "__init__", "engine", "tasks", "session"),
    *("decoding", "backends", "models", "plan", "audio", "text", "results", "config", "system"),
    *("errors", "system.quote", "kernels"),
)

# What may know Pengi's own config (besides the package's face, which offers it).
PENGI = ("pengi_rt.plan.pengi", "pengi_rt.models", "pengi_rt.export", "pengi_rt.training")

# The command line is a client of the engine, as a server is: it may import these.
CLIENT = (
    *("pengi_rt.cli", "pengi_rt.render", "pengi_rt.engine", "pengi_rt.results", "pengi_rt.config"),
    *("pengi_rt.errors", "pengi_rt.system"),
)
# What else it imports, where, and why; nothing more, and nothing less.
BEYOND = {
    "pengi_rt.cli.named": {"pengi_rt.audio.find": "names and patterns become files"},
    "pengi_rt.cli.output_checks": {
        "pengi_rt.plan.builtin": "the built-in plan is an input, and is not overwritten",
        "pengi_rt.plan.file_kind": "a recording, plan or checkpoint is not overwritten",
    },
    "pengi_rt.cli.verbs.data": {
        "pengi_rt.text.prompts": "the tasks to list and to check manifests against",
        "pengi_rt.training.datasets.common": "converts datasets",
        "pengi_rt.training.datasets.registry": "converts datasets",
        "pengi_rt.training.manifest_check": "checks manifests",
    },
    "pengi_rt.cli.verbs.doctor": {
        "pengi_rt.backends.diagnosis": "looks for packages and devices; needs no engine",
    },
    "pengi_rt.cli.verbs.export": {
        "pengi_rt.export.export": "exports; needs no engine",
        "pengi_rt.export.self_test": "the type of the checks that are shown",
    },
    "pengi_rt.cli.verbs.inspect": {
        "pengi_rt.plan.builtin": "the plan that is shown by default",
    },
    "pengi_rt.cli.verbs.train": {
        "pengi_rt.training.config": "the stage to train",
        "pengi_rt.training.loop": "trains; needs no engine",
    },
    "pengi_rt.cli.verbs.warmup": {
        "pengi_rt.backends.opening": "a warm-up begins before there is an engine to ask",
    },
}

AT_THE_ROOT = ("__init__", "__main__", "engine", "errors")


def within(module: str, *rooms: str) -> bool:
    """Whether ``module`` is one of ``rooms`` or lies inside one."""
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def runtime() -> list[str]:
    return [name for name in MODULES if not within(name, *EXTRAS, "pengi_rt.kernels")]


def folders_of_tests() -> set[Path]:
    return {path.parent for path in (ROOT / "tests").glob("*/**/test_*.py")}


def packages() -> set[Path]:
    return {path.parent for path in MODULES.values()}


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


def layer(module: str) -> int:
    """How far below the top a module belongs, by the longest name in LAYERS containing it."""
    if module == "pengi_rt":
        return LAYERS.index("__init__")
    if module == "pengi_rt._core":  # what kernels/csrc builds
        return LAYERS.index("kernels")
    rooms = [room for room in LAYERS if within(module, f"pengi_rt.{room}")]
    assert rooms, f"{module} is in no room of LAYERS"
    return LAYERS.index(max(rooms, key=len))


def ours(name: str) -> set[str]:
    """Our modules that a module imports anywhere, and the packages that it names alone."""
    found = {found.module for found in IMPORTS[name]} & {*MODULES, "pengi_rt._core"}
    return found - {name} - ({"pengi_rt"} if not imports_the_face(name) else set())


def imports_the_face(name: str) -> bool:
    """Whether it imports something from ``pengi_rt`` itself, not from a module in it."""
    source = MODULES[name].read_text("utf-8")
    return (
        re.search(r"^\s*(import pengi_rt$|from pengi_rt import )", source, re.MULTILINE) is not None
    )


def test_every_room_is_there() -> None:
    for room in {*LAYERS} - {"__init__"}:
        assert any(within(name, f"pengi_rt.{room}") for name in MODULES), f"there is no {room}"


@pytest.mark.parametrize("name", MODULES)
def test_arrows_run_down(name: str) -> None:
    assert [other for other in sorted(ours(name)) if layer(other) < layer(name)] == []


@pytest.mark.parametrize("name", MODULES)
def test_what_serves_every_family_does_not_know_pengi(name: str) -> None:
    """It uses what the protocols in config/family.py name."""
    found = {found.module for found in IMPORTS[name]}
    knows = not found.isdisjoint({"pengi_rt.config.pengi", "pengi_rt.PengiConfig"})
    assert name == "pengi_rt" or within(name, *PENGI) or not knows


def beyond_the_client(name: str) -> set[str]:
    """What a module of the command line imports besides what every client may."""
    return {other for other in ours(name) if other != "pengi_rt" and not within(other, *CLIENT)}


@pytest.mark.parametrize("name", [name for name in MODULES if within(name, "pengi_rt.cli")])
def test_the_command_line_is_a_client(name: str) -> None:
    assert beyond_the_client(name) == set(BEYOND.get(name, {}))


@pytest.mark.parametrize(
    "name", [name for name in MODULES if within(name, "pengi_rt.cli", "pengi_rt.render")]
)
def test_nothing_reaches_through_the_engine(name: str) -> None:
    tree = ast.parse(MODULES[name].read_text("utf-8"))
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert attributes.isdisjoint({"session", "prompt_tokenizer", "tokenizer"})
    through = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == "backend"
    ]
    assert {*through} <= {"arguments.backend", "check.backend"}  # a flag; a line of the self-test


def test_the_package_root_holds_rooms() -> None:
    modules = {path.stem for path in (ROOT / "pengi_rt").glob("*.py")}
    assert modules == set(AT_THE_ROOT)


def test_there_is_no_circle() -> None:
    TopologicalSorter({name: ours(name) for name in MODULES}).prepare()


def test_tests_mirror_the_rooms() -> None:
    folders = {path.relative_to(ROOT / "tests").as_posix() for path in folders_of_tests()}
    rooms = {path.relative_to(ROOT).as_posix().removeprefix("pengi_rt/") for path in packages()}
    assert folders - rooms <= {"gpu", "parity", "reliability"}


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
    # scikit-build-core leaves out what git ignores, even if it was added by force.
    name = build("wheel", tmp_path)
    with zipfile.ZipFile(tmp_path / name) as wheel:
        held = sorted(entry for entry in wheel.namelist() if ".dist-info/" not in entry)
        licenses = {Path(entry).name for entry in wheel.namelist() if "/licenses/" in entry}
    typing = ["pengi_rt/_core.pyi", "pengi_rt/py.typed"]
    plans = (ROOT / "pengi_rt" / "plan").glob("*.plan")
    recipes = (ROOT / "training" / "recipes").rglob("*.toml")
    data = [
        "pengi_rt/text/prompts.toml",
        *(path.relative_to(ROOT).as_posix() for path in plans),
        *(f"pengi_rt/{path.relative_to(ROOT).as_posix()}" for path in recipes),
    ]
    modules = [path.relative_to(ROOT).as_posix() for path in MODULES.values()]
    assert held == sorted([*modules, *typing, *data])
    assert licenses == {"LICENSE", "NOTICE"}
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
    """The file name of a wheel or sdist built in ``folder``, without compiling."""
    settings = {"wheel.cmake": "false"} if kind == "wheel" else {}
    call = f"build.build_{kind}({str(folder)!r}, {settings!r})"
    return run(f"from scikit_build_core import build; print({call})").splitlines()[-1]


def run(code: str) -> str:
    """What ``code`` prints in a fresh interpreter in the root that cannot import from it."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
