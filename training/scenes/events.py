"""The renderer of each class of event, by name."""

from collections.abc import Callable
from typing import Final

import numpy as np

from pengi_rt.training.scenes import creatures, impacts, noises, tones
from pengi_rt.training.scenes.synthesis import F32

Renderer = Callable[[np.random.Generator, float], F32]

RENDERERS: Final[dict[str, Renderer]] = {
    renderer.__name__: renderer
    for renderer in (
        *(tones.alarm, tones.beep, tones.bell, tones.horn, tones.siren, tones.sweep),
        *(tones.whistle, impacts.clicks, impacts.drum, impacts.footsteps, impacts.glass),
        *(impacts.guitar, impacts.knocking, noises.engine, noises.rain, noises.thunder),
        *(noises.waves, noises.wind, creatures.bird, creatures.dog, creatures.insects),
        creatures.voice,
    )
}
"""``RENDERERS[name](rng, seconds)`` is a sound [round(seconds * 16000)] at any level."""
