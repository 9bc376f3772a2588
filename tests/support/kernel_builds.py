"""Compile kernels for GPUs that this machine lacks, and read the resources that they need.

Triton brings its own assembler, so this needs neither a GPU nor a driver. A process that interprets
kernels cannot compile any: :func:`compile_kernels` runs this file as a script in another one.
"""

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

KERNELS = Path(__file__).parents[2] / "kernels"


@dataclass(frozen=True, slots=True)
class Compiled:
    """The resources that one kernel needs on one architecture.

    Attributes:
        name: the build's name.
        capability: 80, 89 or 90.
        registers: registers per thread.
        stack: stack bytes per thread; what does not fit into registers is spilled there.
        shared: shared memory per program, in bytes.
    """

    name: str
    capability: int
    registers: int
    stack: int
    shared: int


def kernel_modules() -> list[str]:
    """The files in ``kernels/`` that list builds."""
    files = sorted(KERNELS.glob("*.py"))
    return [f"pengi_rt.kernels.{f.stem}" for f in files if "\ndef builds(" in f.read_text()]


def first_builds(module: str) -> list[Any]:
    """The first build that a file lists for each of its kernels: seconds instead of minutes."""
    builds = importlib.import_module(module).builds()
    first: dict[str, Any] = {}
    for build in builds:
        first.setdefault(build.kernel, build)
    return [*first.values()]


def compile_kernels(
    modules: Sequence[str],
    cache: Path,
    capabilities: Sequence[int] = (80, 89, 90),
    names: Sequence[str] = (),
) -> list[Compiled]:
    """Compile the builds of ``modules`` for the architectures that each one supports.

    Args:
        modules: dotted names of files with ``builds()``.
        cache: the folder for Triton's results.
        capabilities: only compile for these.
        names: only compile the builds with these names; if empty, all of them.

    Raises:
        RuntimeError: a kernel does not compile; the message says which and why.
    """
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
    request = {"modules": modules, "capabilities": capabilities, "names": names}
    run = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(request),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        raise RuntimeError(f"compiling {', '.join(modules)} failed:\n{run.stderr[-4000:]}")
    return [Compiled(**json.loads(line)) for line in run.stdout.splitlines()]


def _compile(build: Any, capability: int) -> Compiled:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = build.kernel.arg_names
    kinds = {**build.signature, **dict.fromkeys(build.constexprs, "constexpr")}
    if set(kinds) != set(names) or len(kinds) != len(build.signature) + len(build.constexprs):
        raise ValueError(f"{build.name}: {sorted(kinds)} are not the parameters {names}")
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if kinds[n][0] == "*"}
    source = ASTSource(
        fn=build.kernel,
        signature={name: kinds[name] for name in names},
        constexprs=dict(build.constexprs),
        attrs=aligned,
    )
    options = {"num_warps": build.num_warps, "num_stages": build.num_stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    registers, stack = _usage(compiled.asm["cubin"])
    return Compiled(build.name, capability, registers, stack, compiled.metadata.shared)


def _usage(cubin: bytes) -> tuple[int, int]:
    """Registers and stack bytes of a thread, from the binary itself."""
    import triton.backends.nvidia

    tool = Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    if found is None:
        raise ValueError(f"cuobjdump does not say what the kernel takes: {text!r}")
    return int(found[1]), int(found[2])


def _all(
    modules: Sequence[str], capabilities: Sequence[int], names: Sequence[str]
) -> Iterator[Compiled]:
    for module in modules:
        for build in importlib.import_module(module).builds():
            if names and build.name not in names:
                continue
            for capability in sorted(set(capabilities) & set(build.capabilities)):
                try:
                    yield _compile(build, capability)
                except Exception as error:
                    error.add_note(f"while compiling {build.name} for sm_{capability}")
                    raise


if __name__ == "__main__":
    for result in _all(**json.load(sys.stdin)):
        print(json.dumps(asdict(result)), flush=True)
