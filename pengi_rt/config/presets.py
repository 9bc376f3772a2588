"""The presets: the two published models, and ``tiny``, which has the same quirks."""

from typing import Any

from pengi_rt.errors import UsageError

PRESETS: dict[str, dict[str, Any]] = {
    "base": {},
    "base_no_text_enc": {
        "name": "base_no_text_enc",
        "text": {"kind": "token_embedding", "suffix": " <|endoftext|>"},
        "text_mapper": {"kind": "transformer_seq"},
    },
    # Small, with the same quirks: different rates for the bank and the audio, a stretch that is not
    # the identity, a shifted and an unshifted last stage, halved mapper, an unnormalized text
    # embedding, stop id 220.
    "tiny": {
        "name": "tiny",
        "clip_seconds": 2.0,
        "mel": {"sample_rate": 16_000, "filter_rate": 12_000, "n_fft": 256, "hop_length": 160,
                "n_mels": 16, "fmin": 50.0, "fmax": 5_500.0},
        "htsat": {"spec_size": 64, "embed_dim": 24, "depths": [2, 2], "num_heads": [1, 2]},
        "text": {"vocab_size": 512, "hidden_size": 32, "num_layers": 2, "num_heads": 2,
                 "intermediate_size": 64, "max_positions": 40, "projection_dim": 32,
                 "bos_id": 510, "eos_id": 511},
        "d_proj": 48,
        "audio_mapper": {"prefix_length": 8, "constant_length": 8, "num_layers": 1, "num_heads": 4},
        "text_mapper": {"prefix_length": 8, "constant_length": 8, "num_layers": 1, "num_heads": 4},
        "decoder": {"vocab_size": 512, "n_positions": 128, "n_embd": 64, "n_layer": 2, "n_head": 4},
    },
    # The model that ships: small, trained on synthesized sounds (docs/demo-model.md). The mapper
    # reads every third of a second separately, for clips with several events.
    "demo": {
        "name": "demo",
        "clip_seconds": 4.0,
        "mel": {"sample_rate": 16_000, "filter_rate": 16_000, "n_fft": 1024, "hop_length": 336,
                "n_mels": 48, "fmin": 50.0, "fmax": 8_000.0},
        "htsat": {"spec_size": 96, "embed_dim": 48, "depths": [2, 2, 4], "num_heads": [2, 4, 8],
                  "window_size": 6, "pooling": "time"},
        "text": {"vocab_size": 672, "hidden_size": 128, "num_layers": 2, "num_heads": 4,
                 "intermediate_size": 384, "max_length": 24, "max_positions": 24,
                 "projection_dim": 128, "bos_id": 670, "eos_id": 671},
        "d_proj": 192,
        "normalize_text": True,
        "audio_mapper": {"kind": "transformer_time", "prefix_length": 8, "constant_length": 8,
                         "num_layers": 1, "num_heads": 6},
        "text_mapper": {"prefix_length": 4, "constant_length": 4, "num_layers": 1, "num_heads": 6},
        "decoder": {"vocab_size": 672, "n_positions": 128, "n_embd": 192, "n_layer": 4,
                    "n_head": 6},
        "generation": {"beam_size": 3, "max_new_tokens": 40},
    },
}  # fmt: skip
"""The presets, as JSON over the defaults of ``PengiConfig``, which are ``base``."""


def preset(name: str) -> dict[str, Any]:
    """One of :data:`PRESETS` by name.

    Raises:
        UsageError: there is no such preset.
    """
    if name not in PRESETS:
        raise UsageError(f"there is no preset {name!r}; there are: {', '.join(PRESETS)}")
    return PRESETS[name]
