"""Verdicts on two sets of answers: from our conditions, lm-evaluation-harness's files and plain JSONL."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from factories import make_result
from scipy.optimize import minimize_scalar

from kvhelpers.__main__ import main
from kvhelpers.commands.check import generated
from kvhelpers.compare import check, condition_set, decide, needed, read_set, text_loop
from kvhelpers.compare.page import SHOWN, page
from kvhelpers.compare.verdict import BROKEN, FORMAT, RIGHT, margin_share
from kvhelpers.errors import InputError
from kvhelpers.paths import samples_dir
from kvhelpers.stats import score_interval

BASE, SAME, LOST = "006-capable-model:none", "006-capable-model:snapkv 0.5", "006-capable-model:knorm 0.5"
ASKED = {"until": ["\n"], "max_gen_toks": 32}


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def plain(folder, name, answers, **fields):
    rows = [
        {"id": i, "answer": text} | {key: value[i] for key, value in fields.items()} for i, text in answers
    ]
    return jsonl(folder / f"{name}.jsonl", rows)


def sample(document, text, right, prompt="p", **changes):
    """Both rows of a document, as lm-evaluation-harness 0.4.13 writes them."""
    row = {"doc_id": document, "doc": {"question": str(document)}, "target": "1", "resps": [[text]]}
    row |= {"arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": ASKED}}, "metrics": ["exact_match"]}
    row |= {"doc_hash": f"d{document}", "prompt_hash": f"{prompt}{document}", "target_hash": "t"}
    marks = {"strict-match": right == "strict", "flexible-extract": bool(right)}
    return [
        row | {"filter": by, "filtered_resps": ["1"], "exact_match": float(mark)} | changes
        for by, mark in marks.items()
    ]


def samples(folder, rows, task="toy", date="2026-01-01T00-00-00.000000", results=None):
    folder.mkdir(exist_ok=True)
    if results is not None:
        told = {"versions": {task: 3.0}, "n-shot": {task: 5}, "config": {"model": "hf", "model_args": "x"}}
        (folder / f"results_{date}.json").write_text(json.dumps(told | results))
    return jsonl(folder / f"samples_{task}_{date}.jsonl", [row for both in rows for row in both])


@pytest.fixture
def toy(tmp_path):
    return [sample(i, f"The answer is {i}", "strict") for i in range(12)]


@pytest.mark.parametrize(
    ("lost", "gained", "n"), [(0, 0, 74), (1, 0, 44), (5, 2, 50), (20, 0, 50), (3, 9, 30)]
)
def test_the_score_interval_inverts_the_score_test(lost, gained, n):
    """At its ends, the score statistic with rates by numerical maximum likelihood is 1.96."""
    for end, side in zip(score_interval(lost, gained, n), (1, -1), strict=True):

        def loss(share, end=end):
            rest = 1 - 2 * share - end
            pairs = ((lost, share), (gained, share + end), (n - lost - gained, rest))
            return -sum(count * np.log(max(rate, 1e-300)) for count, rate in pairs if count)

        bounds = (max(0, -end) + 1e-9, (1 - end) / 2 - 1e-9)
        share = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
        statistic = (gained - lost - n * end) / np.sqrt(n * (2 * share + end * (1 - end)))
        assert side * statistic == pytest.approx(1.96, abs=0.005)


def test_tango_s_own_example():
    low, high = score_interval(1, 0, 44)
    assert (round(low, 3), round(high, 3)) == (-0.118, 0.059)
    assert score_interval(0, 1, 44) == (-high, -low)


@pytest.mark.parametrize(
    ("changes", "n", "right", "verdict"),
    [
        ({RIGHT: (0, 0)}, 73, 50, "safe"),
        ({RIGHT: (0, 0)}, 72, 50, "undecided"),
        ({RIGHT: (20, 2)}, 100, 50, "worse"),
        ({RIGHT: (6, 9)}, 100, 50, "undecided"),
        ({RIGHT: (40, 40)}, 2000, 900, "safe"),
        ({RIGHT: (45, 10)}, 2000, 900, "safe"),  # shown to lose, but less than the margin
        ({RIGHT: (0, 0)}, 200, 5, "undecided"),  # too few right for a loss to be seen
        ({RIGHT: (0, 20)}, 100, 0, "safe"),  # none right before, many now
        ({RIGHT: (0, 0), BROKEN: (15, 0)}, 100, 50, "worse"),
        ({RIGHT: (1, 0), FORMAT: (25, 1)}, 100, 50, "worse"),
        ({RIGHT: (5, 35), BROKEN: (6, 1)}, 100, 50, "undecided"),
        ({BROKEN: (0, 0)}, 500, 0, "undecided"),  # nobody knows which are right
    ],
)
def test_the_verdict(changes, n, right, verdict):
    assert decide(changes, n, right)[0] == verdict


def test_a_wider_margin_is_safe_sooner():
    assert [decide({RIGHT: (4, 4)}, 100, 50, margin)[0] for margin in (0.05, 0.1)] == ["undecided", "safe"]


@pytest.mark.parametrize(("lost", "gained"), [(2, 2), (1, 0), (5, 1), (8, 2)])
def test_so_many_prompts_decide_in_four_of_five_cases(lost, gained):
    """Prompts drawn with the rates that 40 prompts showed."""
    n, rates = needed({RIGHT: (lost, gained)}, 40, 20), np.array([lost, gained]) / 40
    drawn = np.random.default_rng(0).multinomial(n, [*rates, 1 - rates.sum()], size=500)
    verdicts = [decide({RIGHT: (int(a), int(b))}, n, n // 2)[0] for a, b, _ in drawn]
    safe, worse = verdicts.count("safe"), verdicts.count("worse")
    assert n > 41 and 350 < safe + worse < 490
    assert min(safe, worse) < 15  # 2.5 % of verdicts may be wrong


def test_a_loss_of_just_the_margin_needs_more_prompts_than_anyone_has():
    assert needed({RIGHT: (5, 0)}, 100, 50) is None
    assert needed({RIGHT: (0, 0)}, 100, 3) is None


@pytest.mark.parametrize(("other", "verdict"), [(SAME, "undecided"), (LOST, "worse"), (BASE, "undecided")])
def test_committed_conditions(other, verdict):
    done = check(read_set(BASE), read_set(other))
    rows = done.outcomes.set_index("outcome")
    assert done.verdict == ("safe" if other == BASE else verdict)
    assert rows.loc[RIGHT, "base"] == 48 and len(done.answers) == 100
    assert done.answers.attrs == {"unit": "tokens", "loops": "token ids"}


def test_equal_accuracy_is_not_equal_answers():
    done = check(read_set(BASE), read_set("006-capable-model:streaming_llm 0.875"))
    rows = done.outcomes.set_index("outcome")
    assert list(rows.loc[RIGHT, ["only_base", "only_other"]]) == [12, 14]
    assert rows.loc[FORMAT, "verdict"] == done.verdict == "worse"


def test_a_condition_without_meaning_is_not_safe():
    right = [True] * 80
    base, flagged = (
        make_result("none", 0.0, right),
        make_result("knorm", 0.5, right, flags=["not_compressed"]),
    )
    assert check(condition_set(base), condition_set(make_result("tova", 0.5, right))).verdict == "safe"
    done = check(condition_set(base), condition_set(flagged))
    assert done.verdict == "undecided" and "not_compressed in 80 of 80" in done.reason


@pytest.mark.parametrize("other", ["007-question-position:none", "001-reproduce-failures:none"])
def test_conditions_that_do_not_belong_together_are_refused(other):
    with pytest.raises(InputError, match="do not belong together: .*(prompt_hash|task|limit on new tokens)"):
        check(read_set(BASE), read_set(other))


def test_the_results_file_is_the_condition():
    path = samples_dir() / "001-reproduce-failures/none/smollm2-135m_0_20p.json"
    pd.testing.assert_frame_equal(
        read_set(str(path)).answers, read_set("001-reproduce-failures:none").answers
    )


def test_harness_files_pair_by_content(tmp_path, toy):
    lost = [sample(i, "The answer is 7", False if i < 4 else "strict") for i in range(12)]
    numbered_anew = [[row | {"doc_id": 100 - row["doc_id"]} for row in both] for both in reversed(lost)]
    base = read_set(samples(tmp_path / "a", toy, results={}))
    for rows in (lost, lost[::-1], numbered_anew):
        done = check(base, read_set(samples(tmp_path / "b", rows, results={})))
        assert list(done.answers["id"][~done.answers["correct_other"].astype(bool)]) == list("0123")
        assert done.answers.attrs == {"unit": "words", "loops": "text"}
    assert "does not end" in done.notes[0]


def test_marks_of_both_filters_tell_the_format(tmp_path, toy):
    loose = [sample(i, f"It is {i}", "flexible") for i in range(12)]
    done = check(*(read_set(samples(tmp_path / name, rows)) for name, rows in (("a", toy), ("b", loose))))
    rows = done.outcomes.set_index("outcome")
    assert (rows.loc[RIGHT, "other"], rows.loc[FORMAT, "other"]) == (12, 0)
    assert any("the task's version was not compared" in note for note in done.notes)


def test_documents_that_occur_twice_keep_their_order(tmp_path):
    def twice(right):
        return [sample(i, "a", one, doc_hash="d", prompt_hash="p") for i, one in enumerate(right)]

    sets = [read_set(samples(tmp_path / n, twice(r))) for n, r in (("a", [True, False]), ("b", [True, True]))]
    rows = check(*sets).outcomes.set_index("outcome")
    assert list(rows.loc[RIGHT, ["only_base", "only_other"]]) == [0, 1]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda rows: rows[:9], "lacks 3 of the 12 prompts of .*, the first of them '9'"),
        (
            lambda rows: [sample(i, "a", True, prompt="other") for i in range(12)],
            "12 of 12 .* in prompt_hash",
        ),
        (lambda rows: [sample(i, "a", True, doc_hash="x") for i in range(12)], "12 of 12 .* in doc_hash"),
        (lambda rows: [sample(i, "a", True, target_hash="u") for i in range(12)], "in target_hash"),
        (lambda rows: [*rows, *(sample(i, "b", True, doc_hash="x") for i in range(3))], "document 0 has two"),
        (lambda rows: [*rows, sample(3, "The answer is 3", True)], "document 3 has two answers"),
        (lambda rows: [sample(0, "a", True, resps=[["a", "b"]])], "sample 1 is no generated answer"),
        (lambda rows: [sample(0, "a", True, arguments=[["p", " yes"]])], "sample 1 is no generated answer"),
        (
            lambda rows: [
                [
                    row | {"arguments": {"gen_args_0": {"arg_0": "p", "arg_1": {"max_gen_toks": 8}}}}
                    for row in both
                ]
                for both in rows
            ],
            "generation_kwargs is .*32.* in the first and .*8.* in the second",
        ),
    ],
)
def test_harness_files_that_do_not_belong_together_are_refused(tmp_path, toy, change, sentence):
    base = read_set(samples(tmp_path / "a", toy))
    with pytest.raises(InputError, match=sentence):
        check(base, read_set(samples(tmp_path / "b", change(toy))))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"task": "tux"}, "task is 'toy' in the first and 'tux' in the second"),
        ({"results": {"versions": {"toy": 2.0}}}, "task version is 3.0 in the first and 2.0 in the second"),
        ({"results": {"n-shot": {"toy": 0}}}, "number of worked examples is 5 .* and 0"),
    ],
)
def test_another_task_or_version_is_refused(tmp_path, toy, given, sentence):
    base = read_set(samples(tmp_path / "a", toy, results={}))
    with pytest.raises(InputError, match=sentence):
        check(base, read_set(samples(tmp_path / "b", toy, **{"results": {}} | given)))


def test_line_ends_of_other_kinds_stand_in_answers(tmp_path):
    path, text = tmp_path / "a.jsonl", "one\u2028two\x0bthree\x85"
    path.write_text(json.dumps({"id": 1, "answer": text}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert list(read_set(str(path)).answers["text"]) == [text]


def test_a_file_that_was_cut_is_refused(tmp_path, toy):
    path = samples(tmp_path / "a", toy)
    whole = Path(path).read_text()
    Path(path).write_text(whole[:-30])
    with pytest.raises(InputError, match="line 24 is no JSON .*cut short"):
        read_set(path)


def test_a_file_that_was_cut_between_filters_is_refused(tmp_path, toy):
    """The harness writes all documents of a filter, then those of the next."""
    by_filter = [[both[place]] for place in (0, 1) for both in toy]
    assert read_set(samples(tmp_path / "a", by_filter)).answers["correct"].all()
    with pytest.raises(InputError, match="document 5 lacks marks that others have .7 such of 12."):
        read_set(samples(tmp_path / "b", by_filter[:17]))


def test_a_condition_and_a_harness_file_are_not_compared(tmp_path, toy):
    with pytest.raises(InputError, match="one is a condition of this package"):
        check(read_set(BASE), read_set(samples(tmp_path, toy)))


def test_plain_answers(tmp_path):
    loop = "so 3 + 4 = 7, and 7 + 4 = 11. " * 12
    texts = [(i, f"the answer is {i}") for i in range(100)]
    looped = [(i, loop if i < 15 else text) for i, text in texts]
    right, ends = [True] * 100, ["stop"] * 100
    base = plain(tmp_path, "base", texts, correct=right, finish_reason=ends)
    wrong = [i >= 15 for i in range(100)]
    cut = ["length" if i < 15 else "stop" for i in range(100)]
    done = check(*map(read_set, (base, plain(tmp_path, "other", looped, correct=wrong, finish_reason=cut))))
    rows = done.outcomes.set_index("outcome")
    assert done.verdict == "worse" and list(rows["other"][["loops", "does not end"]]) == [15, 15]
    assert "prompts were not compared, only their ids" in done.notes
    no_marks = check(*(read_set(plain(tmp_path, name, one)) for name, one in (("a", texts), ("b", texts))))
    assert no_marks.verdict == "undecided" and "is not known" in no_marks.reason


def test_token_ids_tell_loops_where_both_have_them(tmp_path):
    texts = [(i, "no loop to be seen") for i in range(3)]
    ids = [[*range(30)], [7] * 30, [*range(10), *[1, 2] * 20]]
    one = plain(tmp_path, "a", texts, tokens=ids)
    done = check(read_set(one), read_set(one))
    assert list(done.answers["looping_base"]) == [False, True, True]
    assert list(done.answers["onset_base"][1:]) == [0, 10] and done.unit == "tokens"


def test_thoughts_that_are_never_left(tmp_path):
    """The prompt opens them: no answer does, some close them."""
    texts = [(0, "first, 2 + 2</think>4"), (1, "let me see, and see"), (2, "well</think>5")]
    done = check(*(read_set(plain(tmp_path, name, texts)) for name in "ab"))
    assert list(done.answers["never_left_base"]) == [False, True, False]
    assert list(done.answers["broken_base"]) == [False, True, False]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"answer": "x"}, "line 1: id is missing"),
        ({"id": 1, "answer": None}, "line 1: answer None"),
        ({"id": 1, "answer": "x", "correct": 0.5}, "correct 0.5 .true or false"),
        ({"id": 1, "answer": "x", "tokens": ["a"]}, "tokens .'a'. .how many"),
        ({"id": 1, "answer": "x", "finish_reason": "tired"}, "finish_reason 'tired' .one of stop"),
        ([], "line 1 is no JSON object"),
    ],
)
def test_bad_lines_are_named(tmp_path, row, sentence):
    with pytest.raises(InputError, match=sentence):
        read_set(jsonl(tmp_path / "bad.jsonl", [row]))


def test_ids_that_occur_twice_and_gaps_are_refused(tmp_path):
    with pytest.raises(InputError, match="have id '1' twice"):
        read_set(jsonl(tmp_path / "x.jsonl", [{"id": 1, "answer": "a"}, {"id": "1", "answer": "b"}]))
    rows = [{"id": 1, "answer": "a", "correct": True}, {"id": 2, "answer": "b"}]
    with pytest.raises(InputError, match="lack correct in 1 of 2 lines"):
        read_set(jsonl(tmp_path / "x.jsonl", rows))


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("Tom has 3 pens and buys 4 more, so he has 7 pens. #### 7", None),
        (
            "Well. " + "He has 3 + 4 = 7 pens, and then 7 + 4 = 11 more pens to sell. " * 4,
            4,
        ),  # the full stop repeats too
        ("aaaaaaaaaa" * 60, 0),
        ("... ..." * 3, None),
        ("", None),
    ],
)
def test_loops_in_text(text, start):
    assert text_loop(text) == start


@pytest.mark.parametrize("margin", [0, -1, 51, float("nan")])
def test_margins_that_make_no_sense(margin):
    with pytest.raises(InputError, match="margin .* is not allowed"):
        margin_share(margin)


class Balanced(HTMLParser):
    """Tags as they are opened and closed, and all that would load something."""

    VOID = ("meta", "path", "use", "br")

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.links = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href", "xlink:href") or k.startswith("on")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_stands_alone(tmp_path):
    nasty = "<script>alert(1)</script> & <img src=x onerror=y> \u202e"
    texts = [(i, f"{nasty} {i}") for i in range(80)]
    wrong = [i < 3 for i in range(80)]
    base = plain(tmp_path, "base", texts, correct=[True] * 80)
    done = check(read_set(base), read_set(plain(tmp_path, "other", texts, correct=wrong)))
    made = page(done)
    parser = Balanced()
    parser.feed(made)
    parser.close()
    assert not parser.open and not {"script", "img", "link", "iframe"} & set(parser.tags)
    assert all(link.startswith("#") for link in parser.links) and "\u202e" not in made
    assert parser.tags.count("article") == SHOWN and "17 more are in the files" in made
    assert made.index("Worse") < made.index("<table>") < made.index("<svg") < made.index("<article>")
    assert 'name="viewport"' in made


def test_longest_loops_come_first_and_are_marked():
    made = page(check(read_set(BASE), read_set(LOST)))
    loops = made.index("loops after")
    assert made.index("<mark>") > made.index("<article>")
    assert made.rindex("<mark>") < made.rindex("<article>") and loops < made.rindex("no longer right")


@pytest.mark.parametrize(("other", "code"), [(SAME, 3), (LOST, 1), (BASE, 0)])
def test_the_command_s_exit_codes(output, capsys, other, code):
    assert main(["check", BASE, other]) == code
    folder = output / "figures/check"
    told = json.loads((folder / "check.json").read_text())
    assert told["exit_code"] == code and told["prompts"] == 100
    assert (folder / "check.md").read_text() in capsys.readouterr().out
    assert {path.name for path in folder.iterdir()} == {"check.html", "check.json", "check.md"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([BASE], "give BASE and OTHER"),
        ([], "give BASE and OTHER"),
        ([BASE, LOST, "--press", "knorm"], "give BASE and OTHER"),
        ([BASE, LOST, "--margin", "0"], "margin 0.0 is not allowed"),
        ([BASE, "nothing.jsonl"], "'nothing.jsonl' are not there"),
        ([BASE, "006-capable-model:snapkv"], "did you mean 'snapkv 0.5'"),
        (["--press", "none"], "name the press to be checked"),
        (["--press", "knorm", "--ratio", "2"], "ratio 2.0 is outside"),
    ],
)
def test_bad_input_gets_one_sentence(output, capsys, arguments, sentence):
    assert main(["check", *arguments]) == 2
    assert sentence in capsys.readouterr().err and not (output / "figures").exists()


def test_the_base_s_cache_is_held_in_full(output, monkeypatch):
    asked = []
    monkeypatch.setattr("kvhelpers.experiment.run.run_condition", asked.append)
    monkeypatch.setattr("kvhelpers.commands.check.condition_set", lambda result: result)
    generated({"press": "knorm", "ratio": 0.5, "cache_type_k": "q8_0", "n_prompts": 2})
    generated({"cache_type_k": "q8_0", "n_prompts": 2})
    assert [(one.press, one.cache_type_k) for one in asked] == [
        ("none", "none"),
        ("knorm", "q8_0"),
        ("none", "none"),
        ("none", "q8_0"),
    ]


def test_both_are_generated(output, embedded, capsys):
    arguments = ["check", "--press", "knorm", "--ratio", "0.5", "--name", "mine"]
    assert main([*arguments, "--set", "n_prompts=2", "max_new_tokens=6"]) == 3
    told = json.loads((output / "figures/mine/check.json").read_text())
    assert told["prompts"] == 2 and told["other"]["condition"] == "knorm 0.5"
    assert len(list((output / "data/results/mine").glob("*/*.json"))) == 2
