"""No library phones home: no socket, no file in a fresh home, no thread, with ``CI`` unset."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ANSWER = (
    "import pengi_rt, sys, time\n"
    "with pengi_rt.load() as engine: engine.generate(sys.argv[1])\n"
    "time.sleep(float(sys.argv[2]))"
)
# onnxruntime 1.32 leaves traces at once in its first 9 seconds; its sockets come later.
LONGER = 12.0


def environment(home: Path, **more: str) -> dict[str, str]:
    hidden = ("CI", "ORT_", "HF_", "XDG_", "HOME")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    return {**kept, "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1", **more}


def traces(
    home: Path, code: str, *arguments: str | Path, **more: str
) -> tuple[set[str], list[str]]:
    """Sockets that a process has open at any time, and the files that it leaves in its home."""
    command = [sys.executable, "-P", "-c", code, *map(str, arguments)]
    sockets: set[str] = set()
    with subprocess.Popen(command, env=environment(home, **more)) as process:
        while process.poll() is None:
            sockets |= open_sockets(process.pid)
            time.sleep(0.02)
    assert process.returncode == 0
    return sockets, sorted(str(path.relative_to(home)) for path in home.rglob("*"))


def open_sockets(pid: int) -> set[str]:
    found = set()
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            target = str(link.readlink())
        except OSError:  # closed meanwhile
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    path.mkdir()
    return path


def test_an_answer_writes_nothing_to_the_home_folder_and_opens_no_socket(
    home: Path, sounds: Path, rounds: int
) -> None:
    sound = min(sounds.glob("*.wav"))
    assert traces(home, ANSWER, sound, str(LONGER if rounds > 1 else 0)) == (set(), [])


def test_the_test_would_notice_onnxruntimes_own_telemetry(home: Path) -> None:
    import onnxruntime

    if tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 29):
        pytest.skip(f"onnxruntime {onnxruntime.__version__} does not report")
    _, files = traces(home, "import onnxruntime")
    assert files


def test_a_user_s_own_setting_stays(home: Path) -> None:
    code = "import os, pengi_rt; assert os.environ['ORT_DISABLE_TELEMETRY'] == '0'"
    traces(home, code, ORT_DISABLE_TELEMETRY="0")


def test_importing_onnxruntime_first_gives_a_warning(home: Path) -> None:
    command = [
        sys.executable,
        "-P",
        "-c",
        "import sys; sys.modules['onnxruntime'] = sys\nimport pengi_rt",
    ]
    done = subprocess.run(
        command, env=environment(home), capture_output=True, text=True, check=True
    )
    assert "import pengi_rt first" in done.stderr
    quiet = environment(home, ORT_DISABLE_TELEMETRY="1")
    done = subprocess.run(command, env=quiet, capture_output=True, text=True, check=True)
    assert not done.stderr
