"""Run the tests as the libraries would compute on other processors: ``make isa``.

Each library chooses its routines by what the processor can do, and each has a switch of its own to
leave instructions unused. ONNX Runtime has none.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np

SETS: Final[dict[str, dict[str, str]]] = {
    "sse42": {
        "PENGI_RT_ISA": "generic",
        "ATEN_CPU_CAPABILITY": "default",
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-AVX2_Usable,-FMA_Usable",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "OPENBLAS_CORETYPE": "Nehalem",
    },
    "avx2": {
        "PENGI_RT_ISA": "avx2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
    },
    "avx512": {
        "PENGI_RT_ISA": "avx512",
        "ATEN_CPU_CAPABILITY": "avx512",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
        "OPENBLAS_CORETYPE": "SkylakeX",
    },
}
"""The switches of our own, glibc's, MKL's, OpenBLAS's, oneDNN's, PyTorch's; NumPy's are names."""


def environment(name: str) -> dict[str, str]:
    """This process's environment, limiting the libraries to one set's instructions."""
    return os.environ | SETS[name] | {"NPY_DISABLE_CPU_FEATURES": " ".join(_unused(name))}


def here() -> tuple[str, ...]:
    """The sets that this processor supports."""
    if platform.machine() != "x86_64":
        return ()
    flags = Path("/proc/cpuinfo").read_text("utf-8").split()
    return tuple(
        name for name in SETS if name == "sse42" or f"{name.replace('512', '512f')}" in flags
    )


def main(arguments: list[str]) -> int:
    """Run pytest once under each set; 1 if one of them failed."""
    failed = []
    for name in here():
        print(f"== {name}", flush=True)
        command = [sys.executable, "-m", "pytest", *arguments]
        if subprocess.run(command, env=environment(name), check=False).returncode:
            failed.append(name)
    print(
        f"ran under: {', '.join(here()) or 'none, this is no x86-64'}; failed: {failed or 'none'}"
    )
    return int(bool(failed) or not here())


def _unused(name: str) -> list[str]:
    """NumPy's own sets beyond ``name``; x86-64-v2, which is SSE4.2, is always used."""
    config: Any = np.show_config(mode="dicts")
    found: list[str] = config["SIMD Extensions"].get("found", [])
    wide = [each for each in found if "AVX512" in each or each == "X86_V4"]
    return {"sse42": found, "avx2": wide, "avx512": []}[name]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
