"""A diagnosis of an installation as text."""

from collections.abc import Iterator

from pengi_rt.backends.diagnosis import Diagnosis
from pengi_rt.system.machine import Machine


def diagnosis_lines(found: Diagnosis) -> Iterator[str]:
    """Everything found, as lines of text."""
    yield f"pengi-rt {found.pengi_rt}, {found.python}, {found.platform}"
    yield ""
    for package in (*found.core, *found.extras):
        remark = package.problem or package.details
        yield f"{package.name:<14} {package.version or '-':<14} {remark}".rstrip()
    yield f"{'native kernels':<14} {found.native_kernels}"
    yield ""
    yield from _machine_lines(found.machine)
    yield ""
    for backend, verdict in found.backends.items():
        yield f"{backend:<14} {'runs here' if verdict == 'ok' else f'does not run here: {verdict}'}"
    yield ""
    yield from (f"PROBLEM        {problem}" for problem in found.problems)
    if not found.problems:
        yield "no problems found"


def _machine_lines(machine: Machine) -> Iterator[str]:
    quota = "no quota" if machine.cpu_quota is None else f"a quota of {machine.cpu_quota:g}"
    threads = "unknown: OMP_NUM_THREADS is wrong" if machine.threads is None else machine.threads
    yield f"{'cpu':<14} {machine.cpu} ({' '.join(machine.cpu_flags) or 'no known flags'})"
    yield f"{'cores':<14} {machine.cores}, {machine.allowed_cores} of them allowed, {quota}"
    yield f"{'threads':<14} {threads}"
    yield (
        f"{'memory':<14} {_gigabytes(machine.memory)}, "
        f"{_gigabytes(machine.available_memory)} available"
    )
    yield f"{'cache':<14} {machine.cache}{'' if machine.cache_writable else ' (not writable)'}"


def _gigabytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e9:.1f} GB"
