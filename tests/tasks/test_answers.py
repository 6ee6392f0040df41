import pytest

from kvhelpers.records import Answer
from kvhelpers.tasks.answers import extract_answer, is_right


@pytest.mark.parametrize(
    ("text", "strict", "flexible", "decided_by"),
    [
        ("6 + 2 = 8.\n#### 8", "8", "8", "strict-match"),
        ("#### 1,234.", "1234", "1234", "strict-match"),
        ("#### -5", "-5", "-5", "strict-match"),
        ("#### $18", None, "18", "strict-match"),
        ("The answer is **18**", None, "18", "flexible-extract"),
        (r"so \boxed{\$18}", None, "18", "boxed"),
        ("It is 8. Hope that helps... :)", None, "..", "flexible-extract"),
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


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("It is 8. Hope that helps... :)", "8"),
        ("#### \u22128", "-8"),
        ("#### \u20138", "-8"),
        ("minus eight: \u22128.", "-8"),
        ("#### -$160.00", "-160.00"),
        ("a loss of $-15", "-15"),
        ("#### **18**", "18"),
        ("####18", "18"),
        ("#### $18, and 99 left", "18"),
        ("#### $1{,}234$", "1234"),
        ("#### 10%", "10"),
        (r"#### \frac{5}{6}", "5/6"),
        ("#### 5/6", "5/6"),
        ("#### 6 + 2 = 8", "8"),
        ("#### 8 (since 4 + 4 = 8, not 9)", "8"),
        ("#### Conclusion:\nShe has 8, not 9.\n#### 8", "8"),
        ("#### 5*3", "5"),
        ("#### 24 = 8 * 3", "24"),
        ("#### 24 (= 8 * 3)", "24"),
        ("#### 100 [5*20=100, 3=3]", "100"),
        (r"\boxed{24 = 8\times 3}", "24"),
        (r"\boxed{6 + 2 = 8}", "8"),
        (r"#### 1\frac{1}{2}", "3/2"),
        (r"\boxed{2\frac{1}{4}}", "9/4"),
        ("#### \u2212 8", "-8"),
        ("#### -  $8", "-8"),
        (r"\boxed{- 8}", "-8"),
        ("3-5", "5"),
        ("x-16", "16"),
        ("22.23.23.23", None),
        ("..", None),
        ("$", None),
        (r"\boxed{8}$.", "8"),
        (r"She needs \(\boxed{5}\) times for 15 flans.", "5"),
        (r"\boxed{4} is a draft; \boxed{8}", "8"),
        (r"#### 8, or \boxed{9}", "8"),
        (r"#### \boxed{8}", "8"),
        (r"\boxed{1{,}234}", "1234"),
        (r"\boxed{1\,234}", "1234"),
        (r"\boxed{10\%}", "10"),
        (r"\boxed{\text{18 dollars}}", "18"),
        (r"\boxed{18\ \text{m}^2}", "18"),
        (r"\boxed{90^\circ}", "90"),
        (r"\boxed{x = 7}", "7"),
        (r"\boxed{-\frac{5}{6}}", "-5/6"),
        (r"\boxed{x - 16}", "x - 16"),
        (r"\boxed{5\pi}", r"5\pi"),
        (r"\boxed{3, 5}", "3, 5"),
        (r"\boxed{5*3}", "5*3"),
        (r"\boxed{18~\text{m}}", "18"),
        (r"\boxed{18~cm^2}", "18"),
        (r"\boxed{18\text{ cm}^2}", "18"),
        (r"\boxed{(18)}", "18"),
        (r"\boxed{18 m}", "18"),
        (r"\boxed{2x}", "2x"),
        (r"\boxed{8 million}", "8000000"),
        ("#### $1.5 million", "1500000"),
        ("It costs $1.5 million.", "1500000"),
        ("That is 2 Thousand in all.", "2000"),
        ("That is 8 millionths.", "8"),
        (r"\boxed{\frac12}", "1/2"),
        (r"\boxed{1\frac12}", "3/2"),
        (r"It is \frac{3}{4}.", "3/4"),
        (r"It is 2\frac{3}{4} cups", "11/4"),
        (r"It is \frac12", "1/2"),
        (r"It is \frac{3}{4} of 12", "12"),
        (r"\frac{a}{b}", None),
        (r"\boxed{\text{infinite}} with 5", r"\text{infinite}"),
        (r"\boxed{} 5", "5"),
        (r"cut off: \boxed{5", "5"),
    ],
)
def test_what_is_judged_is_a_whole_number(text, value):
    assert extract_answer(text).value == value


@pytest.mark.parametrize(
    ("value", "reference", "right"),
    [
        ("5/6", "5/6", True),
        ("1/2", "0.5", True),
        ("1/0", "1", False),
        ("5/6", "6", False),
        ("x - 16", "16", False),
        ("-8", "8", False),
        ("10", ".1", False),
    ],
)
def test_fractions_are_numbers_and_expressions_are_none(value, reference, right):
    assert is_right(value, reference) is right


@pytest.mark.parametrize(
    ("text", "numeric", "rest"),
    [
        ("so:\n#### 8", True, "#### 8"),
        (r"4, or \boxed{8}", True, r"\boxed{8}"),
        ("4, then 8.", True, "8."),
        ("a\n#### Sam", False, "#### Sam"),
        ("a\nSam\n", False, "Sam\n"),
    ],
)
def test_the_answer_starts_where_it_was_found(text, numeric, rest):
    assert text[extract_answer(text, numeric=numeric).start :] == rest


def test_a_value_that_older_results_do_not_hold_is_the_deciding_rule_s():
    for rule, value in (("strict-match", "3"), ("flexible-extract", "99"), (None, "99")):
        assert Answer(strict="3", flexible="99", decided_by=rule).value == value


def test_nothing_after_a_stop_string_counts():
    assert extract_answer("It is 4.\nQuestion: 5 and 6?", ("Question:",)).value == "4"
