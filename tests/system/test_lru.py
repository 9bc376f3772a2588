"""The cache keeps what was used last, and computes each value once."""

from pengi_rt.system.lru import LRU


def test_the_least_recently_used_goes_first() -> None:
    cache: LRU[str, int] = LRU(2)
    made = []

    def make(value: int) -> int:
        made.append(value)
        return value

    for key, value in [("a", 1), ("b", 2), ("a", 3), ("c", 4), ("b", 5)]:
        cache.get_or_make(key, lambda value=value: make(value))  # type: ignore[misc]
    assert dict(cache) == {"c": 4, "b": 5}
    assert made == [1, 2, 4, 5]
