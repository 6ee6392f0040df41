import pytest

from kvhelpers.tasks.answers import extract_answer, is_right


@pytest.mark.parametrize(
    ("text", "strict", "flexible", "decided_by"),
    [
        ("6 + 2 = 8.\n#### 8", "8", "8", "strict-match"),
        ("#### 1,234.", "1234", "1234", "strict-match"),
        ("#### -5", "-5", "-5", "strict-match"),
        ("#### $18", None, "18", "flexible-extract"),
        ("The answer is **18**", None, "18", "flexible-extract"),
        (r"so \boxed{\$18}", None, "18", "flexible-extract"),
        ("#### 3 and later 99", "3", "99", "strict-match"),
        ("first 4, then 5.", None, "5", "flexible-extract"),
        ("no number at all", None, None, None),
        ("", None, None, None),
    ],
)
def test_both_rules_are_recorded_and_one_decides(text, strict, flexible, decided_by):
    answer = extract_answer(text)
    assert (answer.strict, answer.flexible, answer.decided_by) == (strict, flexible, decided_by)


@pytest.mark.parametrize(
    ("text", "reference", "correct"),
    [
        ("#### 18", "18", True),
        ("#### 18.00", "18", True),
        ("$1,000.", "1000", True),
        ("#### 19", "18", False),
        ("it goes on ...", "18", False),
        ("#### ..", "18", False),
        ("", "18", False),
    ],
)
def test_numbers_are_compared_as_numbers(text, reference, correct):
    assert is_right(extract_answer(text).value, reference) is correct


def test_nothing_after_a_stop_string_counts():
    assert extract_answer("It is 4.\nQuestion: 5 and 6?", ("Question:",)).value == "4"
