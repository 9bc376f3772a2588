"""What a recording's samples say about how they were made: is it a sound at all?"""

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]


class Statistics:
    """Peaks and sums of a recording, block by block; its memory does not grow.

    Hand it every block of samples once, in order, before the channels are mixed.
    """

    def update(self, block: F32) -> None:
        """Count ``[channels, n]``, at full scale 1; blocks of one recording have one width."""

    def warnings(self) -> tuple[str, ...]:
        """What is wrong with the whole, a sentence each without the recording's name; often ()."""
        return ()
