"""What no recording is beyond."""

from pengi_rt.errors import AudioError

MIN_RATE, MAX_RATE = 1_000, 1_000_000  # Hz: geophones, recorders for bats and dolphins
MAX_CHANNELS = 32


def check_shape(name: str, rate: int, channels: int, frames: int) -> None:
    """Refuse what no recording has.

    Raises:
        AudioError: rate or channels are outside the limits, or there are no frames.
    """
    if not MIN_RATE <= rate <= MAX_RATE:
        raise AudioError(f"{name}: sample rate {rate} Hz; supported: {MIN_RATE} to {MAX_RATE} Hz")
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(f"{name}: {channels} channels; supported: 1 to {MAX_CHANNELS}")
    if not frames:
        raise AudioError(f"{name}: it holds no samples")
