"""Every candidate tile compiles for every architecture, and none spills.

One that asks for more shared memory than a GPU has is left out when tiles are measured there; that
must be rare, and must not happen on the GPUs for which it is meant.
"""

from pathlib import Path

import pytest
from kernel_builds import compile_kernels

from pengi_rt.kernels.build import SHARED_BYTES


@pytest.mark.builds
def test_every_tile_fits(tmp_path: Path) -> None:
    found = compile_kernels(["tile_builds"], tmp_path)
    launchers = {compiled.name.split()[0] for compiled in found}
    assert launchers == {
        "swin_linear",
        "small_linear",
        "lm_head",
        "window_attention",
        "log_mel",
        "beam_attention",
    }
    assert [c for c in found if c.stack > 0] == [], "registers are spilled"
    large = {
        (c.capability, c.name.split()[0], c.name[c.name.rindex("(") :])
        for c in found
        if c.shared > SHARED_BYTES[c.capability]
    }
    assert large == {
        (89, "swin_linear", "(128, 128, 64, 8, 4)"),
        (89, "small_linear", "(16, 32, 64, 16, 16, 1)"),
    }
