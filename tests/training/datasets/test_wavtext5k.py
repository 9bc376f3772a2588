"""WavText5K: title, description and tags, as far as present, joined."""

from pathlib import Path

import pytest
from miniature import record, write

from pengi_rt.errors import InputError
from pengi_rt.training.datasets.registry import convert_dataset

HEADER = "view_link,download_link,title,description,fname,tags\n"
TABLE = (
    HEADER
    + """\
v,d,Forest,"Birds singing, drive away, fly.",0100.wav,
v,d,Wind,,0595.wav,
v,d,"Footsteps, shoe","Footsteps, shoe",0376.wav,
v,d,Fart," A ""nasty"" one.",wet fart_1367.wav,"['fart', ""it's"", 'fart', ' ']"
v,d,,,nothing.wav,
v,d,Gone,,gone.wav,
"""
)


def test_rows(tmp_path: Path) -> None:
    write(tmp_path / "WavText5K.csv", TABLE)
    names = ["0100.wav", "0595.wav", "0376.wav", "wet fart_1367.wav", "nothing.wav"]
    audio = [record(tmp_path / "44100" / "audios" / name) for name in names]
    done = convert_dataset("wavtext5k", tmp_path, "all")
    texts = [
        "Forest. Birds singing, drive away, fly",
        "Wind",
        "Footsteps, shoe",
        'Fart. A "nasty" one. fart, it\'s',
    ]
    assert done.rows == [
        {"audio": path, "task": "metadata", "metadata": text}
        for path, text in zip(audio, texts, strict=False)
    ]
    assert (done.clips, done.missing, done.textless) == (5, 1, 1)


@pytest.mark.parametrize("cell", ["wind", "__import__('os')", "[1]", "{'a'}", "[", "[[]]"])
def test_invalid_tags(tmp_path: Path, cell: str) -> None:
    table = write(tmp_path / "WavText5K.csv", f'{HEADER}v,d,t,d,a.wav,"{cell}"\n')
    record(tmp_path / "a.wav")
    with pytest.raises(InputError, match=f"^{table}:2: tags must be a list such as"):
        convert_dataset("wavtext5k", tmp_path)
