"""This machine and its installed packages: what matters for the engine's speed and health."""

import ctypes
import importlib.metadata
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.version import Version

from pengi_rt.errors import UsageError
from pengi_rt.system.download import cache_directory
from pengi_rt.system.threads import affinity_cores, available_threads, cgroup_quota

DISTRIBUTION = "pengi-rt"
_CPU_PROVIDER = "CPUExecutionProvider"

CPU_FLAGS = (
    "avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16",
    "amx_tile", "amx_bf16", "amx_int8", "asimd", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
"""Instruction sets that matter for the choice of matrix kernels."""


@dataclass(frozen=True, slots=True)
class Package:
    """An installed package, or one that is missing; ``problem`` ("is ...") is what is wrong."""

    name: str
    version: str | None
    problem: str | None
    details: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """The hardware, and how much of it this process may use."""

    cpu: str
    cpu_flags: tuple[str, ...]
    cores: int
    allowed_cores: int
    cpu_quota: float | None  # cores' worth of time
    threads: int | None  # that the engine would start; None if OMP_NUM_THREADS is invalid
    memory: int | None  # bytes
    available_memory: int | None  # bytes
    cache: str
    cache_writable: bool


def requirements() -> tuple[tuple[Requirement, ...], tuple[Requirement, ...]]:
    """The packages that the engine requires, and those that only its extras need.

    They are read from the installed metadata; a package of several extras is listed once.
    """
    wanted = [Requirement(line) for line in importlib.metadata.requires(DISTRIBUTION) or ()]
    core = {each.name: each for each in wanted if "extra" not in str(each.marker)}
    extras = {each.name: each for each in wanted if each.name not in core}
    return tuple(core.values()), tuple(extras.values())


def package(wanted: Requirement) -> Package:
    """The installed package, read from its metadata without importing it."""
    try:
        version = importlib.metadata.version(wanted.name)
    except importlib.metadata.PackageNotFoundError:
        return Package(wanted.name, None, "is not installed")
    # 1.24.0rc1 will do for 1.24.
    if not wanted.specifier.contains(Version(version).base_version):
        problem = f"is too old: pip install '{wanted.name}{wanted.specifier}'"
        return Package(wanted.name, version, problem)
    return Package(wanted.name, version, None)


def loaded_package(wanted: Requirement) -> Package:
    """Like :func:`package`, but also imports it: only that reveals a broken binary."""
    found = package(wanted)
    if found.problem:
        return found
    try:
        details = _DETAILS.get(wanted.name, _nothing)(import_module(wanted.name))
    except Exception as error:  # noqa: BLE001 - whatever a broken installation raises is the finding
        return Package(wanted.name, found.version, f"cannot be imported: {_one_line(error)}")
    return Package(wanted.name, found.version, None, details)


def cpu_provider_problem() -> str | None:
    """Why ONNX Runtime, which is installed, cannot compute on the CPU, or ``None``."""
    onnxruntime = loaded_package(Requirement("onnxruntime"))
    if onnxruntime.problem:
        return f"onnxruntime {onnxruntime.problem}"
    if _CPU_PROVIDER not in onnxruntime.details:
        return f"this onnxruntime has no {_CPU_PROVIDER}"
    return None


def native_kernels() -> str | None:
    """Why the native kernels do not load, or ``None``."""
    try:
        import_module("pengi_rt._core")
    except ImportError as error:
        return _one_line(error)
    return None


def cuda_problem(library: str = "libcuda.so.1") -> str | None:
    """Why there is no CUDA GPU to run on, or ``None``. Asks the driver, without torch."""
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return f"no NVIDIA driver ({library} does not load)"
    count = ctypes.c_int(0)
    code = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if code:
        return f"the NVIDIA driver gives error {code} (see nvidia-smi)"
    return None if count.value else "the NVIDIA driver sees no GPU"


def machine(proc: Path = Path("/proc")) -> Machine:
    """This machine."""
    cpu, flags = _cpu(proc / "cpuinfo")
    memory = _memory(proc / "meminfo")
    cache = cache_directory()
    try:
        threads = available_threads()
    except UsageError:
        threads = None
    return Machine(
        cpu=cpu,
        cpu_flags=flags,
        cores=os.cpu_count() or 1,
        allowed_cores=affinity_cores(),
        cpu_quota=cgroup_quota(),
        threads=threads,
        memory=memory.get("MemTotal"),
        available_memory=memory.get("MemAvailable"),
        cache=str(cache),
        cache_writable=_writable(cache),
    )


def _cpu(path: Path) -> tuple[str, tuple[str, ...]]:
    """Model and flags of the first core, as named by the kernel."""
    try:
        fields = dict(re.findall(r"^([^\t:]+?)\s*:[ \t]*(.*)$", path.read_text(), re.MULTILINE))
    except OSError:
        fields = {}
    flags = set(f"{fields.get('flags', '')} {fields.get('Features', '')}".split())
    return fields.get("model name", "unknown"), tuple(flag for flag in CPU_FLAGS if flag in flags)


def _memory(path: Path) -> dict[str, int]:
    try:
        text = path.read_text()
    except OSError:
        return {}
    return {
        name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+):\s*(\d+) kB", text, re.MULTILINE)
    }


def _writable(folder: Path) -> bool:
    """Whether ``folder`` can be written to, or created."""
    there = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    return there.is_dir() and os.access(there, os.W_OK)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _nothing(_: Any) -> str:
    return ""


def _onnxruntime(module: Any) -> str:
    return ", ".join(module.get_available_providers())


def _soundfile(module: Any) -> str:
    known = module.available_formats()
    formats = [name for name in ("WAV", "FLAC", "OGG", "MP3") if name in known]
    return f"libsndfile {module.__libsndfile_version__}: {', '.join(formats)}"


_DETAILS: dict[str, Callable[[Any], str]] = {"onnxruntime": _onnxruntime, "soundfile": _soundfile}
