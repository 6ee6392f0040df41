"""Problems of reasoning-gym, against the package itself; skipped where the optional extra is missing."""

import pytest

from kvhelpers.errors import InputError
from kvhelpers.records import StopReason
from kvhelpers.scoring.score import Ended, score
from kvhelpers.tasks.answers import extract_answer, is_right
from kvhelpers.tasks.load import data_fingerprint, load_problems, verifier

gym = pytest.importorskip("reasoning_gym")
SYMBOLIC, LETTERS = "reasoning_gym:gsm_symbolic", "reasoning_gym:letter_counting"
CIPHER = "reasoning_gym:caesar_cipher"


def test_problems_are_the_package_s_with_its_worked_answers():
    problems, examples = load_problems(SYMBOLIC, 10, 3, 42)
    rows = gym.create_dataset("gsm_symbolic", seed=42, size=50)
    for problem in (*examples, *problems):
        task, seed, index = problem.id.split("/")
        row = rows[int(index)]
        assert (task, seed) == (SYMBOLIC, "42")
        assert (problem.question, problem.reference) == (row["question"], row["answer"])
        assert problem.solution == row["metadata"]["answer_cot"]
    assert len({problem.question for problem in (*examples, *problems)}) == 13
    assert data_fingerprint(SYMBOLIC, None).startswith("reasoning-gym 0.1.")


def test_another_draw_of_examples_leaves_the_problems():
    problems, examples = load_problems(SYMBOLIC, 10, 3, 42)
    same, others = load_problems(SYMBOLIC, 10, 3, 42, examples_seed=7)
    assert same == problems and others != examples
    assert not {one.question for one in others} & {one.question for one in problems}


@pytest.mark.parametrize("task", (SYMBOLIC, LETTERS))
def test_numbers_are_right_where_the_verifier_says_so(task):
    problems, _ = load_problems(task, 20, 0, 3)
    rows = gym.create_dataset(task.split(":")[1], seed=3, size=400)
    for problem in problems:
        row = rows[int(problem.id.rsplit("/", 1)[1])]
        assert verifier(task, {}, problem.id, problem.reference) is None
        for text in (problem.solution, "#### 123456", f"It is {problem.reference}."):
            value = extract_answer(text).value
            assert is_right(value, problem.reference) == (rows.score_answer(value, entry=row) >= 1)


def test_other_answers_are_checked_by_the_verifier():
    (problem, other), _ = load_problems(CIPHER, 2, 0, 3)
    verify = verifier(CIPHER, {}, problem.id, problem.reference)

    def judge(text):
        return score(Ended(text, [1], [len(text)], StopReason.EOS), problem.reference, verify)

    assert judge(f"Shifted back.\n#### {problem.reference}").correct
    assert judge(f"Shifted back:\n{problem.reference}\n").answer.decided_by == "flexible-extract"
    assert judge(f"Shifted back:\n{problem.reference}\n").correct
    assert not judge(f"#### {other.reference}").correct
    assert judge("").answer.value is None and not judge("").correct


def test_settings_reach_the_data_set():
    kwargs = {"min_words": 2, "max_words": 2}
    problems, _ = load_problems(CIPHER, 5, 0, 3, task_kwargs=kwargs)
    assert {len(problem.reference.split()) for problem in problems} == {2}


@pytest.mark.parametrize(
    ("task", "n", "kwargs", "sentence"),
    [
        (
            "reasoning_gym:gsm_symbolik",
            1,
            {},
            "reasoning_gym data set 'gsm_symbolik' is unknown; did you mean",
        ),
        (CIPHER, 1, {"colour": 1}, "task_kwargs {'colour': 1} are not allowed for reasoning_gym:caesar"),
        (CIPHER, 1, {"min_words": -1}, "task_kwargs {'min_words': -1} are not allowed"),
        ("onestep", 1, {"a": 1}, "task_kwargs {'a': 1} are only for tasks 'reasoning_gym:…'"),
        ("reasoning_gym:count_bits", 1, {"size": 3}, "task_kwargs {'size': 3} are not allowed"),
    ],
)
def test_bad_input_gets_a_sentence(task, n, kwargs, sentence):
    with pytest.raises(InputError, match=sentence):
        load_problems(task, n, 0, 3, task_kwargs=kwargs)
