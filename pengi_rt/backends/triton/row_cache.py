"""A decoding on the device as the protocol's cache, where the host chooses every row's parent."""

from torch import Tensor

from pengi_rt.backends.triton.decoder import Decoding


class RowCache:
    """The protocol's view of a decoding: its rows choose their parents outside."""

    def __init__(self, decoding: Decoding) -> None:
        self.decoding = decoding
        self.width = decoding.shape.beams
        self.position = 0

    def follow(self, parents: Tensor) -> None:
        """Make every row's generated history its parent's."""
        t, table = self.position, self.decoding.history.ancestry
        if t:
            parents = parents.view(self.decoding.shape.clips, self.width)
            known = table[t - 1, ..., : t - 1]
            index = parents.long()[..., None].expand(known.shape)
            table[t, ..., : t - 1] = known.gather(1, index)
            table[t, ..., t - 1] = parents

    def places(self) -> Tensor:
        """[B * W]: the position of every row's next token."""
        lengths = self.decoding.prefix_lengths.long() + self.position
        return lengths.repeat_interleave(self.width)
