"""Models as plans and checkpoints of a smaller precision leave them."""

from pengi_rt.models.at_rest import restored, stored
from pengi_rt.models.pengi import Pengi


def rounded(model: Pengi, precision: str = "fp16") -> Pengi:
    """A float32 copy of ``model`` with the weights that storing it in ``precision`` leaves."""
    return restored(model, stored(model.state_dict(), precision))
