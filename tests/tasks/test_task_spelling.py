"""Class names that are misspellings of others."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankwright.tasks.errors import Where
from rankwright.tasks.spelling import doubts, edits, misspelt, occurrences


def counted(**counts):
    """The names so often each, one a line."""
    names = [name for name, count in counts.items() for _ in range(count)]
    return occurrences((name, Where("t.csv", line)) for line, name in enumerate(names, start=2))


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [
        ("", "", 0), ("", "ab", 2), ("same", "same", 0), ("postive", "positive", 1),
        ("positvie", "positive", 1), ("kitten", "sitting", 3), ("ab", "ba", 1), ("abc", "ca", 3),
    ],
)  # fmt: skip
def test_edits(a, b, distance):
    assert edits(a, b) == edits(b, a) == distance


@given(st.text("abc", max_size=6), st.text("abc", max_size=6), st.text("abc", max_size=6))
def test_edits_count_every_edited_letter(a, b, more):
    assert abs(len(a) - len(b)) <= edits(a, b) <= max(len(a), len(b))
    assert edits(a + more, b + more) <= edits(a, b)


@pytest.mark.parametrize(
    ("rare", "often"),
    [
        ("Postive", "Positive"), ("Positvie", "Positive"), ("Positiv", "Positive"),
        ("postive", "Positive"), ("Poositivee", "Positive"), ("spost", "sport"),
    ],
)  # fmt: skip
def test_a_rare_name_with_a_wrong_letter_is_misspelt(rare, often):
    ((first, second),) = misspelt(counted(**{often: 29, rare: 2, "zzz": 30}).values())
    assert (first.name, second.name) == (rare, often)
    assert str(first.first) == "t.csv:31"


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("sport", "sports"), ("match", "matches"), ("category", "categories"),
        ("not_entailment", "not entailment"), ("sci-fi", "scifi"), ("a.b", "a b"),
    ],
)  # fmt: skip
def test_variants_are_reported_regardless_of_their_counts(a, b):
    ((first, second),) = misspelt(counted(**{a: 30, b: 29}).values())
    assert (first.name, second.name) == (b, a)


@pytest.mark.parametrize(
    "names",
    [
        ("acceptable", "unacceptable"), ("typical", "atypical"), ("male", "female"),
        ("class1", "class2"), ("10", "11"), ("1000", "10000"), ("cat", "car"), ("NN", "NNS"),
        ("entailment", "not_entailment"), ("world", "sport"), ("+", "-"),
        ("PRP", "PRP$"), ("C", "C++"), ("sun-meal", "soy-meal"), ("NNP", "NNPS"),
        ("-1", "1"), ("A-", "A"), ("1.0", "10"),
    ],
)  # fmt: skip
def test_names_of_their_own_are_not_misspelt(names):
    rare, often = names
    for counts in ({rare: 2, often: 100}, {often: 2, rare: 100}, {rare: 50, often: 50}):
        assert misspelt(counted(**counts).values()) == []


def test_a_name_seen_once_may_be_a_misspelling_of_any_other():
    ((rare, often),) = misspelt(counted(Postive=1, Positive=2).values())
    assert (rare.name, often.name) == ("Postive", "Positive")


@pytest.mark.parametrize(("a", "b"), [("house", "mouse"), ("cloud", "cloudy")])
def test_frequent_names_a_letter_apart_are_not_misspelt(a, b):
    assert misspelt(counted(**{a: 30, b: 20}).values()) == []


def test_sentences_name_the_rows():
    assert doubts(counted(Positive=29, Negative=30, Postive=1)) == [
        "labels that may be misspelt: 'Postive' (1, the first at t.csv:61), "
        "close to 'Positive' (29). Correct them, or list every label in label_names "
        "(--label-names) if they are classes of their own"
    ]
    assert doubts(counted(Positive=29, Negative=30, Mixed=1)) == [
        "labels that occur once in the training rows: 'Mixed' at t.csv:61"
    ]
    assert doubts(counted(Positive=29, Negative=30)) == []


def test_a_column_of_texts_as_labels_is_checked_quickly():
    start = time.process_time()
    names = occurrences((f"{n:06} {'a' * 30}", Where("t.csv", n)) for n in range(20_000))
    again = occurrences((f"{n % 500:06} {'a' * 30}", Where("t.csv", n)) for n in range(20_000))
    assert len(doubts(names)) == 1
    assert doubts(again) == []
    assert time.process_time() - start < 5


def test_many_doubtful_names_are_cut():
    (sentence,) = doubts(counted(often=30, **{f"name {chr(97 + n) * 9}": 1 for n in range(9)}))
    assert sentence.count(" at t.csv:") == 5
    assert sentence.endswith(" and 4 more")
