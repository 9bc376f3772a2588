"""Messages from the library are read back; any other bytes are refused, or are a message too."""

import random
from contextlib import suppress

import pytest
from onnx import TensorProto, ValueInfoProto, helper

from pengi_rt.plan.protobuf import BYTES, FLOATS, INT, INTS, TEXT, Table, only, read

TENSOR: Table = {
    1: ("dims", INTS),
    2: ("data_type", INT),
    4: ("float_data", FLOATS),
    7: ("int64_data", INTS),
    8: ("name", TEXT),
    9: ("raw_data", BYTES),
    13: ("place", {1: ("key", TEXT), 2: ("value", TEXT)}),
}
WHOLE = TensorProto(
    name="é",
    data_type=1,
    dims=[3, 1 << 40],
    int64_data=[0, -1, 2**63 - 1],
    float_data=[1, 2],
    raw_data=b"\xff",
)
for number in range(2):
    WHOLE.external_data.add(key=f"k{number}", value="")
DATA = WHOLE.SerializeToString()


def test_reads_what_the_library_writes() -> None:
    assert read(DATA, TENSOR) == {
        "dims": [3, 1 << 40],
        "data_type": [1],
        "float_data": [None, None],
        "int64_data": [0, -1, 2**63 - 1],
        "name": ["é"],
        "raw_data": [b"\xff"],
        "place": [{"key": ["k0"], "value": [""]}, {"key": ["k1"], "value": [""]}],
    }
    assert read(b"", TENSOR) == {}


def test_every_truncation_is_refused_or_a_shorter_message() -> None:
    for length in range(len(DATA)):
        try:
            read(DATA[:length], TENSOR)
        except ValueError:
            continue
        assert TensorProto.FromString(DATA[:length])


def test_any_bytes_are_a_message_or_refused() -> None:
    draw = random.Random(3)
    for _ in range(2000):
        data = bytearray(DATA)
        data[draw.randrange(len(data))] = draw.randrange(256)
        with suppress(ValueError):
            read(bytes(data), TENSOR)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (helper.make_tensor_value_info("x", 1, [1]).SerializeToString(), "an unexpected form"),
        (ValueInfoProto(doc_string="x").SerializeToString(), "the field 3, which no export writes"),
        (b"\x42\x01\xff", "not UTF-8: b'\\xff'"),
        (b"\x42\x05abc", "cut short"),
        (b"\x08" + b"\xff" * 10, "cut short"),
        (b"\x08", "cut short"),
        (b"\x0b\x0c", "an unexpected form"),
        (b"\x41" + bytes(8), "an unexpected form"),
        (b"\x12\x01\x01", "an unexpected form"),
    ],
)
def test_invalid_messages(data: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=r"^(holds|is) ") as caught:
        read(data, TENSOR)
    assert says in str(caught.value)


def test_a_field_that_may_occur_once() -> None:
    message = read(b"\x10\x01\x10\x02", TENSOR)
    with pytest.raises(ValueError, match="has data_type 2 times, not once"):
        only(message, "data_type")
    assert only(message, "name", "none") == "none"
