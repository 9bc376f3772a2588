"""Labels as users give them, and labels that offer no choice."""

from typing import Any

import pytest
from toy_plan import one_line

from pengi_rt.errors import PengiError, PromptError, UsageError
from pengi_rt.tasks.classify.labels import check_labels


def test_labels_are_their_own_texts() -> None:
    assert check_labels([" dog", "a, b "]) == {"dog": "dog", "a, b": "a, b"}
    assert list(check_labels(("b", "a", "c"))) == ["b", "a", "c"]


def test_labels_with_texts_of_their_own() -> None:
    labels = {"dog": " a dog barks ", "rain": "rain"}
    assert check_labels(labels) == {"dog": "a dog barks", "rain": "rain"}
    assert check_labels(labels, "hear {label}, {label}") == {
        "dog": "hear a dog barks, a dog barks",
        "rain": "hear rain, rain",
    }


def test_braces_are_not_format_fields() -> None:
    assert check_labels(["{x}", "{label}"], "{label} {0}") == {
        "{x}": "{x} {0}",
        "{label}": "{label} {0}",
    }


@pytest.mark.parametrize(
    ("labels", "template", "error", "message"),
    [
        ([], "{label}", UsageError, "no labels"),
        ({}, "{label}", UsageError, "no labels"),
        ("dog", "{label}", UsageError, "one string: 'dog'"),
        (["dog", " "], "{label}", UsageError, "label 2 is empty"),
        ({"dog": ""}, "{label}", UsageError, "label 1 is empty"),
        (["dog", "cat", "dog "], "{label}", UsageError, "label 3, 'dog', is a duplicate"),
        ({"a": "x", "b": " x"}, "{label}", UsageError, "'a' and 'b' have the same text: 'x'"),
        (["dog", 3], "{label}", PromptError, "label 2 must be a string, got int"),
    ],
)
def test_refused(labels: Any, template: str, error: type[PengiError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        check_labels(labels, template)
    assert one_line(str(caught.value))
