import json

import pytest

from kvhelpers.errors import InputError
from kvhelpers.tasks.answers import extract_answer, is_correct
from kvhelpers.tasks.load import data_fingerprint, load_problems
from kvhelpers.tasks.prompts import build_prompts


@pytest.fixture
def gsm8k_file(tmp_path):
    rows = [
        {"question": f"How much is {n} and {n}?", "answer": f"It is {2 * n}.\n#### {2 * n}"}
        for n in range(30)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_onestep_is_decided_by_its_seed():
    problems, examples = load_problems("onestep", 50, 4, seed=7)
    assert (problems, examples) == load_problems("onestep", 50, 4, seed=7)
    assert problems != load_problems("onestep", 50, 4, seed=8)[0]
    assert problems[:10] == load_problems("onestep", 10, 4, seed=7)[0]
    assert len({p.question for p in problems + examples}) == 54
    for problem in problems + examples:
        assert is_correct(extract_answer(problem.solution), problem.reference)


def test_gsm8k_ids_point_at_the_rows_and_examples_are_apart(gsm8k_file):
    problems, examples = load_problems("gsm8k", 10, 3, seed=42, data_file=str(gsm8k_file))
    rows = gsm8k_file.read_text().splitlines()
    for problem in problems + examples:
        name, number = problem.id.split("/")
        assert name == "rows.jsonl" and json.loads(rows[int(number)])["question"] == problem.question
    assert not {p.id for p in problems} & {p.id for p in examples}
    assert problems == load_problems("gsm8k", 10, 3, seed=42, data_file=str(gsm8k_file))[0]


def test_multiturn_and_single_message_prompts(embedded, gsm8k_file):
    problems, examples = load_problems("gsm8k", 1, 2, seed=0, data_file=str(gsm8k_file))
    (turns,) = build_prompts(problems, examples, embedded.tokenizer)
    assert [m["role"] for m in turns.messages] == ["user", "assistant"] * 2 + ["user"]
    (single,) = build_prompts(problems, examples, embedded.tokenizer, multiturn=False)
    assert len(single.messages) == 1
    for prompt in (turns, single):
        text = embedded.tokenizer.decode(prompt.token_ids)
        assert text.endswith("<|im_start|>assistant\n")
        assert all(problem.question in text for problem in problems + examples)


def test_fingerprint_follows_the_content(gsm8k_file):
    before = data_fingerprint("gsm8k", str(gsm8k_file))
    copy = gsm8k_file.with_name("copy.jsonl")
    copy.write_bytes(gsm8k_file.read_bytes())
    assert data_fingerprint("gsm8k", str(copy)) == before
    copy.write_text(copy.read_text() + "\n\n{}")
    assert data_fingerprint("gsm8k", str(copy)) != before


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"not json\n", "line 1 is no JSON object"),
        (b'{"question": "a"}\n', "line 1 is no JSON object with 'question' and 'answer'"),
        (b'{"question": "a", "answer": "no number"}\n', "no '#### number'"),
        (b"[1]\n", "line 1 is no JSON object"),
        (b"\xff\xfe\n", "line 1 is no JSON object"),
        (b"", "has 0"),
    ],
)
def test_unreadable_files_are_named(tmp_path, content, sentence):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        load_problems("gsm8k", 1, 0, seed=0, data_file=str(path))


def test_missing_file_and_hub_are_named(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        load_problems("gsm8k", 1, 0, seed=0, data_file=str(tmp_path / "none.jsonl"))
    monkeypatch.setattr(
        "datasets.load_dataset", lambda *a, **k: (_ for _ in ()).throw(ConnectionError("no network"))
    )
    with pytest.raises(InputError, match="cannot load openai/gsm8k: no network; or name a local JSONL"):
        load_problems("gsm8k", 1, 0, seed=0)


def test_onestep_has_an_end():
    with pytest.raises(InputError, match="ask for 40004 problems, but onestep has 36864"):
        load_problems("onestep", 40000, 4, seed=0)
