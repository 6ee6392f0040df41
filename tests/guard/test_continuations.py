"""Finished runs of the committed sample, taken up with the embedded model."""

import pytest
from reference import CHAT, alone, save_answering

from kvhelpers.errors import InputError
from kvhelpers.experiment.condition import make_condition
from kvhelpers.experiment.run import prompts_of, run_condition
from kvhelpers.guard import continuations
from kvhelpers.guard.continuations import Point, Store, continue_runs, key_of
from kvhelpers.guard.definition import SourceRuns
from kvhelpers.guard.source import Source
from kvhelpers.models.load import load_model

LABEL = "tova 0.875"


@pytest.fixture(scope="module")
def source():
    return Source(SourceRuns(experiment="002-compression-sweep", conditions=(LABEL,)))


def point(index, keep, **press):
    return Point(condition=LABEL, prompt_index=index, keep=keep, **press)


def test_a_run_goes_on_as_transformers_and_kvpress_go_on(source, embedded, tmp_path):
    points = [point(0, 5), point(1, 12, press="tova", ratio=0.4)]
    done = continue_runs(source, points, tmp_path, lambda: embedded)
    prompts = prompts_of(source.baseline.condition, embedded)
    limit = source.baseline.condition.max_new_tokens
    for one in points:
        ids = source.tokens(LABEL)[one.prompt_index][: one.keep]
        past = [*prompts[one.prompt_index].token_ids, *ids]
        expected = alone(embedded, past, one.spec.for_prompt(len(past)), 0, limit - one.keep)
        ran = done[key_of(one)]
        assert list(ran.token_ids) == expected[: len(ran.token_ids)]
        assert len(ran.token_ids) == len(expected) or ran.stop_reason == "stop_string"
        assert ran.tokens == one.keep + len(ran.token_ids) and ran.held_tokens == len(past)


def test_restored_at_the_start_a_run_is_the_uncompressed_one(source, embedded, tmp_path):
    (ran,) = continue_runs(source, [point(2, 0)], tmp_path, lambda: embedded).values()
    full = source.baseline.records[2]
    assert list(ran.token_ids) == source.tokens("none")[2]
    assert (ran.text, ran.correct, ran.stop_reason) == (full.text, full.correct, full.stop_reason)


def test_what_was_finished_when_a_call_was_killed_is_not_run_again(source, embedded, tmp_path, monkeypatch):
    points, write, written = [point(index, 3) for index in range(3)], Store.write, []

    def killed_after_one(store, continuation):
        if written:
            raise KeyboardInterrupt
        write(store, continuation)
        written.append(continuation.point)

    monkeypatch.setattr(Store, "write", killed_after_one)
    with pytest.raises(KeyboardInterrupt):
        continue_runs(source, points, tmp_path, lambda: embedded)
    monkeypatch.undo()
    asked, generate = [], continuations._generate

    def noted(base, lm, prompts, tokens, missing):
        asked.extend(missing)
        return generate(base, lm, prompts, tokens, missing)

    monkeypatch.setattr(continuations, "_generate", noted)
    done = continue_runs(source, points, tmp_path, lambda: embedded)
    assert [one for one in points if one not in asked] == written
    assert set(done) == {key_of(one) for one in points}
    again = continue_runs(source, points, tmp_path, pytest.fail)  # nothing is missing: no model is loaded
    assert again == done


def test_a_file_that_was_changed_is_run_again(source, embedded, tmp_path):
    (ran,) = continue_runs(source, [point(0, 3)], tmp_path, lambda: embedded).values()
    (path,) = tmp_path.glob("*.json")
    path.write_text(path.read_text().replace('"keep":3', '"keep":4'))
    (again,) = continue_runs(source, [point(0, 3)], tmp_path, lambda: embedded).values()
    assert again.token_ids == ran.token_ids


def test_a_thinking_model_goes_on_thinking_where_its_prompts_are_the_same(output, tmp_path):
    pieces = ["a", "Question: b", "#### 9", "</think>", " so", " #### 8", "Question:", "c"]
    template = CHAT.removesuffix("{% endif %}") + "<think>{% endif %}"
    lm = load_model(str(save_answering(tmp_path / "model", pieces, template)), device="cpu")
    values = {"model": lm.name, "n_prompts": 1, "n_fewshot": 0, "max_new_tokens": 20, "device": "cpu"}
    for press in ("none", "knorm"):
        run_condition(make_condition(values | {"press": press, "ratio": 0.5 * (press != "none")}), lm)
    source = Source(SourceRuns(experiment="scratch", conditions=("knorm 0.5",)))
    for keep in (1, 4):
        one = Point(condition="knorm 0.5", prompt_index=0, keep=keep)
        (ran,) = continue_runs(source, [one], tmp_path / str(keep), lambda: lm).values()
        assert (ran.text, ran.stop_reason) == ("".join(pieces[:7]), "stop_string")
        assert ran.text[ran.thinking_chars :] == "".join(pieces[4:7])
        assert ran.correct == source.baseline.records[0].correct
    lm.tokenizer.chat_template = template.replace("assistant\n", "assistant:")
    with pytest.raises(InputError, match="has other tokens .* than when it was run"):
        continue_runs(source, [one], tmp_path / "others", lambda: lm)
