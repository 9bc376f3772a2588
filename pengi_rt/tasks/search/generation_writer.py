"""Write one generation of an index."""

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from pengi_rt.system.files import file_sha256, sync
from pengi_rt.tasks.search.index_manifest import (
    AUDIO,
    CAPTIONS,
    MANIFEST,
    ROWS,
    FileRecord,
    Identity,
    IndexManifest,
)
from pengi_rt.tasks.search.rows import RowBlock


def write_generation(
    folder: Path, identity: Identity, collection: str, blocks: Iterable[RowBlock], count: int
) -> None:
    """Create ``folder`` with the ``count`` rows of all ``blocks``, and sync it to the disk.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir()
    names = (ROWS, *identity.matrices)
    with ExitStack() as stack:
        files = {name: stack.enter_context((folder / name).open("xb")) for name in names}
        for name, width in identity.matrices.items():
            header = {"descr": "<f4", "fortran_order": False, "shape": (count, width)}
            np.lib.format.write_array_header_1_0(files[name], header)
        for block in blocks:
            files[ROWS].writelines(row.to_json() for row in block.rows)
            files[CAPTIONS].write(block.captions.astype("<f4").tobytes())
            if block.audio is not None:
                files[AUDIO].write(block.audio.astype("<f4").tobytes())
    manifest = IndexManifest(
        plan=identity.plan,
        settings=dict(identity.settings),
        settings_sha256=identity.settings_sha256,
        dimension=identity.dimension,
        audio_dimension=identity.audio_dimension,
        collection=collection,
        rows=count,
        files={name: _record(folder / name) for name in names},
    )
    (folder / MANIFEST).write_bytes(manifest.to_json())
    for path in (*(folder / name for name in names), folder / MANIFEST, folder):
        sync(path)


def _record(path: Path) -> FileRecord:
    return FileRecord(size=path.stat().st_size, sha256=file_sha256(path))
