"""Models rounded like plans and checkpoints with smaller weights."""

from pengi_rt.config.choices import WeightsName
from pengi_rt.models.pengi import Pengi
from pengi_rt.models.stored_weights import store_weights, with_weights


def rounded(model: Pengi, weights: WeightsName = "fp16") -> Pengi:
    """A float32 copy of ``model``, rounded as a plan with these ``weights`` stores it."""
    return with_weights(model, store_weights(model.state_dict(), weights))
