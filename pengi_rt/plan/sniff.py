"""What a file is that was handed in as a plan and is none.

``.plan`` is also TensorRT's extension, and a checkpoint is what people have before they export:
both deserve better than "bad magic".
"""

import re

HEAD = 4096  # bytes that not_a_plan wants to see

_EXPORT = "run pengi-rt export on it, and give the plan that it writes"
_LOCAL_HEADER = 30  # bytes before the name of a ZIP file's first entry

_KINDS: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (
        re.compile(rb"[fp]trt"),
        "a raw TensorRT engine, not a pengi-rt plan: make one with pengi-rt export",
    ),
    # Before the pickles: its first byte is the low one of a length, and may be anything.
    (re.compile(rb".{4}\0{4}\{", re.DOTALL), f"a safetensors file, not a plan: {_EXPORT}"),
    (re.compile(rb"\x80[\x02-\x05]"), f"a pickled PyTorch checkpoint, not a plan: {_EXPORT}"),
    (
        # ir_version (field 1), then the producer, the graph or the opset of a ModelProto.
        re.compile(rb"\x08[\x01-\x7f][\x12\x1a\x22\x28\x32\x3a\x42]"),
        "an ONNX graph, not a plan: export the checkpoint with pengi-rt export",
    ),
    (
        re.compile(rb"\s*<(!doctype html|html|head|\?xml)", re.IGNORECASE),
        "an HTML page, not a plan: the download went wrong; fetch it again",
    ),
    (
        re.compile(rb"version https://git-lfs"),
        "a git-lfs pointer, not the plan itself: run git lfs pull",
    ),
)


def not_a_plan(head: bytes) -> str | None:
    """What the file that starts with ``head`` is instead, or ``None`` if it may be a plan."""
    if head.startswith(b"PK\3\4"):
        name = head[_LOCAL_HEADER : _LOCAL_HEADER + head[26]] if len(head) > _LOCAL_HEADER else b""
        return f"a PyTorch checkpoint, not a plan: {_EXPORT}" if b"data.pkl" in name else None
    for pattern, kind in _KINDS:
        if pattern.match(head):
            return kind
    return f"no plan: it starts with {head[:8]!r}, a plan with {b'PK'!r}"
