"""``pengi-rt doctor`` reports what works here, and fails only if the engine cannot run."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from pengi_rt.cli.verbs import doctor
from pengi_rt.system import machine as environment
from pengi_rt.system.machine import Package, requirements

CORE, EXTRAS = ([each.name for each in group] for group in requirements())

HEALTHY = {
    name: Package(name, "99.0", None, "CPUExecutionProvider" * (name == "onnxruntime"))
    for name in (*CORE, *EXTRAS)
}


def run(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    doctor.add_arguments(parser.add_subparsers().add_parser("doctor"))
    arguments = parser.parse_args(["doctor", *argv])
    code: int = arguments.run(arguments)
    return code


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make this a healthy machine, except for the given packages."""

    def install(*packages: Package, kernels: str | None = None, gpus: str | None = None) -> None:
        found = HEALTHY | {package.name: package for package in packages}
        for function in ("package", "loaded_package"):
            monkeypatch.setattr(environment, function, lambda wanted: found[wanted.name])
        monkeypatch.setattr(environment, "native_kernels", lambda: kernels)
        monkeypatch.setattr(environment, "cuda_problem", lambda: gpus)

    return install


def test_healthy(install: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    install()
    assert run() == 0
    lines = capsys.readouterr().out.splitlines()
    assert "onnx           runs here" in lines
    assert "torch          runs here" in lines
    assert "triton         runs here" in lines
    assert "tensorrt       does not run here: not in this version of pengi-rt" in lines
    assert "native kernels ok" in lines
    assert lines[-1] == "no problems found"


def test_runtime_only_installation_is_healthy(
    install: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    install(*(Package(name, None, "is not installed") for name in EXTRAS))
    assert run() == 0
    out = capsys.readouterr().out
    assert "torch          -              is not installed\n" in out
    assert (
        "torch          does not run here: torch is not installed; transformers is not installed; "
        "safetensors is not installed\n"
    ) in out


def test_known_bad_onnxruntime(
    install: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    problem = "is too old: pip install 'onnxruntime>=1.24'"
    install(Package("onnxruntime", "1.20.1", problem))
    assert run() == 5
    out = capsys.readouterr().out
    assert f"onnx           does not run here: onnxruntime {problem}\n" in out
    assert f"PROBLEM        onnxruntime {problem}\n" in out
    assert "no problems found" not in out


def test_onnxruntime_without_the_cpu(
    install: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    install(Package("onnxruntime", "1.31", None, "CUDAExecutionProvider"))
    assert run() == 5
    assert "this onnxruntime has no CPUExecutionProvider" in capsys.readouterr().out


def test_broken_kernels(install: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    install(kernels="undefined symbol: x")
    assert run() == 5
    assert "PROBLEM        the native kernels do not load: undefined symbol: x; install" in (
        capsys.readouterr().out
    )


def test_wrong_omp_num_threads(
    install: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    install()
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert run() == 5
    assert "PROBLEM        OMP_NUM_THREADS must be a number" in capsys.readouterr().out


def test_json(install: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    install(Package("torch", None, "is not installed"))
    assert run("--format", "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["problems"] == []
    assert found["backends"]["onnx"] == "ok"
    assert found["backends"]["torch"] == "torch is not installed"
    assert {package["name"] for package in found["core"]} == set(CORE)
    assert found["machine"]["threads"] >= 1


def test_this_machine_without_importing_torch() -> None:
    script = (
        "import argparse, sys; from pengi_rt.cli.verbs import doctor;"
        "doctor.run(argparse.Namespace(format='json'));"
        "assert not {'torch', 'transformers', 'triton'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert {package["name"] for package in json.loads(done.stdout)["extras"]} == set(EXTRAS)
