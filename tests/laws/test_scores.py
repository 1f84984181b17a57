"""SQuAD's scores on cases with known values."""

import pytest

from openbook.measure.scores import contains, exact, f1, words


@pytest.mark.parametrize(
    ("answer", "golds", "expected"),
    [
        ("The Broncos", ["broncos"], (1, 1, 1)),
        ("It was the Denver Broncos.", ["Denver Broncos"], (1, 2 * (2 / 4) * 1 / (2 / 4 + 1), 0)),
        ("Denver", ["Denver Broncos", "Broncos"], (0, 2 * 1 * 0.5 / 1.5, 0)),
        ("1990", ["199"], (0, 0, 0)),
        ("", ["x"], (0, 0, 0)),
        ("尾巴长470万公里", ["470万公里"], (1, 2 * (4 / 7) / (4 / 7 + 1), 0)),
    ],
)
def test_known_scores(answer, golds, expected):
    assert (contains(answer, golds), pytest.approx(f1(answer, golds)), exact(answer, golds)) == expected


def test_words_are_folded_without_articles_and_punctuation():
    assert words("The U.S. Army, a  force!") == ["us", "army", "force"]
