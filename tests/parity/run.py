"""``make parity REFERENCE=DIR``: the full-size model against the released one, and docs/parity.md.

Makes both published models' deterministic checkpoints with the reference folder's own maker (their
digests must be the known ones), exports them, runs every golden on every backend, and writes the
table of what was found. Ends with pytest's exit code.
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

from full_size import BACKENDS

from pengi_rt.plan.reader import Plan
from pengi_rt.system.files import file_sha256

ROOT = Path(__file__).parents[2]
WORK = ROOT / ".parity"
REPORT = ROOT / "docs" / "parity.md"

DIGESTS = {
    "base": "5c958d64fac9236a79147a4f66e1aeb4eb37d5b5b4eccb77607dd33e0375aa11",
    "base_no_text_enc": "fbf1868f1cacad5e6d4d1b71841a6c4c342b6fe8931d222cc0fb64f7bd620f81",
}
"""SHA-256 over all tensors of the reference checkpoints at seed 0."""

MEANING = {
    "audio_proj": "audio embedding",
    "m1_out": "audio prefix",
    "text_embed": "text embedding",
    "m2_out": "text prefix",
}

HEADER = """\
# Parity with the released implementation

`make parity REFERENCE=DIR` writes this page; do not edit it by hand. The released weights are not
available everywhere, so both models are made with deterministic weights. The released code's own
results with these weights are the golden files under `tests/data/golden_pengi` (the reference
folder's README says how they were made). Every comparison is in float32. A stage passes if its
largest absolute difference is within ten times what the released code itself loses to float32
there. Tokens must be equal, those of all beams.

| | |
|---|---|
"""


def main(reference: Path) -> int:
    """Make, export, compare, report."""
    WORK.mkdir(exist_ok=True)
    commit = git("rev-parse", "--short", "HEAD") + (" + changes" if git("status", "-s") else "")
    (WORK / "rows.jsonl").unlink(missing_ok=True)
    for config, digest in DIGESTS.items():
        make_checkpoint(reference, config, digest)
        make_plan(reference, config)
    environment = os.environ | {
        "PENGI_RT_REFERENCE": str(reference.resolve()),
        "PENGI_RT_PARITY": str(WORK),
        "PENGI_RT_CHECKPOINTS": str(WORK),
    }
    suites = ["tests/parity", "tests/decoding/test_golden_beam.py", "tests/models"]
    code = subprocess.call(
        [sys.executable, "-m", "pytest", "-q", *suites], env=environment, cwd=ROOT
    )
    rows = read_rows()
    if code == 0 and {row["backend"] for row in rows} != set(BACKENDS):
        print("parity: not every backend was compared", file=sys.stderr)
        code = 1
    REPORT.write_text(report(rows, code, commit), encoding="utf-8")
    print(f"{REPORT.relative_to(ROOT)} written; pytest ended with {code}")
    return code


def make_checkpoint(reference: Path, config: str, digest: str) -> None:
    """``.parity/CONFIG.pth``: made once with the known digest, its bytes checked from then on."""
    path, record = WORK / f"{config}.pth", WORK / f"{config}.sha256"
    if path.exists() and record.exists() and record.read_text() == file_sha256(path):
        return
    print(f"making {path.relative_to(ROOT)}", flush=True)
    temporary = path.with_suffix(".tmp")
    manifest = reference / "manifests" / f"pengi_{config}.json"
    maker = (reference / "make_checkpoint.py", manifest, "0", temporary)
    made = json.loads(subprocess.check_output([sys.executable, *map(str, maker)]))
    if made["sha256"] != digest:
        sys.exit(f"parity: {reference} made another {config}: {made['sha256']}, not {digest}")
    temporary.replace(path)
    record.write_text(file_sha256(path))


def make_plan(reference: Path, config: str) -> None:
    """``.parity/CONFIG.plan``, always exported anew, because the exporter is under test."""
    command = ("export", WORK / f"{config}.pth", "-o", WORK / f"{config}.plan", "--force")
    tokenizers = ("--tokenizers", reference / "tokenizers")
    subprocess.check_call([sys.executable, "-m", "pengi_rt", *map(str, command + tokenizers)])


def read_rows() -> list[dict[str, object]]:
    """The comparisons recorded by the tests."""
    ledger = WORK / "rows.jsonl"
    if not ledger.exists():
        return []
    return [json.loads(line) for line in ledger.read_text().splitlines()]


def report(rows: Iterable[dict[str, object]], code: int, commit: str) -> str:
    """The page: provenance, then one line per backend and stage."""
    facts = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "result": "all passed" if code == 0 else f"FAILED (pytest exit code {code})",
        "commit": commit,
        "machine": f"{processor()}, {os.cpu_count()} cores",
        "versions": ", ".join(
            f"{name} {version(name)}" for name in ("torch", "transformers", "onnxruntime", "numpy")
        ),
        **{f"`{name}` weights": f"`{digest}`" for name, digest in DIGESTS.items()},
        **{f"`{name}.plan` weights.bin": f"`{weights_digest(name)}`" for name in DIGESTS},
    }
    lines = [f"| {name} | {value} |" for name, value in facts.items()]
    table = [
        "",
        "| backend | stage | comparisons | largest difference | its tolerance | passed |",
        "|---|---|--:|--:|--:|---|",
        *table_lines(rows),
        "",
    ]
    return HEADER + "\n".join(lines + table)


def table_lines(rows: Iterable[dict[str, object]]) -> Iterable[str]:
    """One line per backend and stage: the comparison that came closest to its tolerance."""

    def key(row: dict[str, object]) -> tuple[str, str]:
        return str(row["backend"]), str(row["stage"])

    def strain(row: dict[str, object]) -> float:
        difference, tolerance = float(str(row["difference"])), float(str(row["tolerance"]))
        return difference / tolerance if tolerance else difference

    for (backend, stage), group in groupby(sorted(rows, key=key), key=key):
        found = list(group)
        worst = max(found, key=strain)
        passed = all(float(str(r["difference"])) <= float(str(r["tolerance"])) for r in found)
        yield (
            f"| {backend} | {MEANING.get(stage, stage)} | {len(found)} | {worst['difference']:.2g} "
            f"| {worst['tolerance']:.2g} | {'yes' if passed else '**no**'} |"
        )


def weights_digest(config: str) -> str:
    with Plan.open(WORK / f"{config}.plan") as plan:
        return plan.manifest.entries["weights.bin"].sha256


def processor() -> str:
    """The CPU's name, from /proc/cpuinfo where there is one."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))


def git(*arguments: str) -> str:
    return subprocess.check_output(["git", *arguments], cwd=ROOT, text=True).strip()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
