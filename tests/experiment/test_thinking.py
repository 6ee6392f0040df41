"""Runs of models that think, and prompts that are not what they were: a model that answers a given text makes
both; `model.generate` and the text itself are the references.
"""

import json

import pytest
from reference import CHAT, alone, save_answering

from kvhelpers.commands.rescore import rescore
from kvhelpers.commands.verify import verify
from kvhelpers.errors import InputError
from kvhelpers.experiment import run as module
from kvhelpers.experiment.checkpoint import Checkpoint
from kvhelpers.experiment.condition import make_condition
from kvhelpers.experiment.grid import finished_results
from kvhelpers.experiment.identity import identity
from kvhelpers.experiment.seal import sealed
from kvhelpers.frames import runs as runs_of
from kvhelpers.log import write_log
from kvhelpers.models.load import load_model

PLAIN = CHAT.removesuffix("{% endif %}")
QWEN3 = PLAIN + "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
R1 = PLAIN + "<think>\n{% endif %}"  # the prompt opens the thoughts
NONE = CHAT
DATED = "{{ strftime_now('%d %B %Y') }}\n" + CHAT
DRAFT = ["Question: what is asked?", "\n#### 9"]
ANSWER = ["\nSo it is", " 8.\n#### 8"]
OFF = {"chat_template_kwargs": '{"enable_thinking": false}'}
STOPPED, LIMIT = "stop_string", "max_new_tokens"


def loaded(folder, pieces=("#### 8",), template=CHAT, **generation_config):
    return load_model(str(save_answering(folder, pieces, template, **generation_config)), device="cpu")


def condition_of(lm, **values):
    usual = {"press": "knorm", "ratio": 0.5, "n_prompts": 2, "n_fewshot": 1, "max_new_tokens": 20}
    return make_condition(usual | {"model": lm.name, "device": "cpu"} | values)


@pytest.mark.parametrize(
    ("pieces", "template", "values", "answer", "stop", "thought"),
    [
        (["<think>", *DRAFT, "</think>", *ANSWER], QWEN3, {}, "8", "eos", 4),
        (["<thi", "nk>", *DRAFT, "</th", "ink>", *ANSWER], QWEN3, {}, "8", "eos", 6),
        (["<think>", *DRAFT, "</th", "ink>#", "### 8"], QWEN3, {}, "8", "eos", 5),
        ([*DRAFT, "</think>", *ANSWER], R1, {}, "8", "eos", 3),
        (["<think>", *DRAFT, "</think>", *ANSWER, "\nQuestion:", " no"], QWEN3, {}, "8", STOPPED, 4),
        ([*DRAFT, "</think>", *ANSWER, "\nQues", "tion:", " no"], R1, {}, "8", STOPPED, 3),
        (["<think>", *DRAFT, "</think>", "</s>", " no"], QWEN3, {}, None, STOPPED, 4),
        (["<think>", *DRAFT, "\n#### 8"], QWEN3, {}, None, "eos", 5),
        (["<think>", *DRAFT, *map(str, range(10, 40))], QWEN3, {}, None, LIMIT, 20),
        ([*DRAFT, "\n#### 8"], R1, {}, None, "eos", 4),
        (["<think>", "7", "</think>", "5\n", "<thi", "nk>", "#### 8"], QWEN3, {}, None, "eos", 8),
        (["<think>", "7", "</think>", "#### 8", "\nI used <think>", " tags."], QWEN3, {}, "8", "eos", 3),
        (["#### 8", "\nQuestion:", " no"], QWEN3, OFF, "8", STOPPED, 0),
        (["#### 8", "\nQuestion:", " no"], QWEN3, {}, "8", STOPPED, 0),
        (["<r>", *DRAFT, "</r>", *ANSWER], NONE, {"think_tags": '["<r>", "</r>"]'}, "8", "eos", 4),
        (["<think>", *DRAFT, "</think>", *ANSWER], NONE, {}, None, STOPPED, None),
    ],
)
def test_an_answer_is_what_stands_behind_the_thoughts(
    output, tmp_path, pieces, template, values, answer, stop, thought
):
    lm = loaded(tmp_path / "model", pieces, template)
    condition = condition_of(lm, **values)
    result = module.run_condition(condition, lm)
    whole = "".join(pieces)
    for record, prompt in zip(result.records, module.prompts_of(condition, lm), strict=True):
        assert (record.answer.value, record.stop_reason, record.thinking_tokens) == (answer, stop, thought)
        assert whole.startswith(record.text) and (stop != "eos" or record.text == whole)
        if stop != STOPPED:
            assert result.signals()["token_id"].tolist()[: record.n_tokens] == alone(
                lm, prompt.token_ids, None, 0, 20
            )
        if thought:
            thoughts = record.text[: record.thinking_chars]
            assert thoughts.endswith(("</think>", "</r>")) or record.thinking_tokens == record.n_tokens
    runs = runs_of([result])
    assert ("never_left_thinking" in runs) == ("thinking_tokens" in runs) == (thought is not None)
    if thought is not None:
        assert (runs["thinking_tokens"] + runs["answering_tokens"] == runs["tokens"]).all()
        assert (runs["thinking_tokens"] == thought).all()
        assert (runs["never_left_thinking"] == (thought == runs["tokens"])).all()
    assert rescore("scratch") == (0, 2) and verify("scratch").faults == []


def test_the_log_says_how_many_runs_never_left_their_thoughts(output, tmp_path):
    lm = loaded(tmp_path / "model", ["<think>", "#### 8"], QWEN3, repetition_penalty=1.3)
    module.run_condition(condition_of(lm, chat_template_kwargs={"enable_thinking": True}), lm)
    log = write_log("scratch").read_text()
    assert "| Wrong | All thoughts | Kept | n |" in log and "| 100 | 100 |" in log
    assert "the model's own `repetition_penalty: 1.3` is not followed" in log
    assert "chat template with `{'enable_thinking': True}`" in log


def test_results_name_the_settings_that_were_not_followed(output, tmp_path):
    """`generate` alone follows them: it stops answering a text that it has to repeat."""
    given = {"repetition_penalty": 1.3, "suppress_tokens": [3], "min_new_tokens": 4}
    harmless = {"do_sample": True, "temperature": 0.6, "no_repeat_ngram_size": 0, "num_beams": 1}
    lm = loaded(tmp_path / "model", **given, **harmless)
    condition = condition_of(lm)
    runs = module.run_prompts(condition, lm)
    next(runs)  # killed after its first prompt, and resumed
    runs.close()
    made = module.run_condition(condition, lm)
    assert made.provenance.ignored_generation_config == given
    assert made.records[0].n_tokens == 2  # an end within the first four tokens
    assert finished_results("scratch")[0].provenance == made.provenance


def test_parameters_of_the_template_and_the_date_tell_configurations_apart(output, tmp_path):
    lm = loaded(tmp_path / "model", ["#### 8"], QWEN3)
    plain = condition_of(lm)
    assert not {"template_date", "chat_template_kwargs", "think_tags"} & set(identity(plain))
    others = (
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"template_date": "2026-02-03"},
        {"think_tags": ["<a>", "</a>"]},
    )
    for number, values in enumerate(others):
        (name,) = values
        assert identity(condition_of(lm, **values))[name] == values[name]
        one, other = (
            condition_of(lm, experiment=f"e{number}"),
            condition_of(lm, experiment=f"e{number}", **values),
        )
        module.run_condition(one, lm)
        with pytest.raises(InputError, match=f"already holds .* \\({name} "):
            module.run_condition(other, lm)
        one, other = (c.model_copy(update={"experiment": f"f{number}"}) for c in (one, other))
        module.run_condition(other, lm)
        for again in (one, one.model_copy(update={"press": "tova"})):
            with pytest.raises(InputError, match=f"already holds .* \\({name} "):
                module.run_condition(again, lm)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"template_date": "today"}, "template_date 'today' is not allowed: .*written as 2025-01-31"),
        ({"template_date": "2025-02-30"}, "template_date '2025-02-30' is not allowed"),
        ({"template_date": "20250101"}, "template_date '20250101' is not allowed"),
        ({"think_tags": ["<a>"]}, "think_tags .* is not allowed: .*two texts"),
        ({"think_tags": ["", "</a>"]}, "think_tags .* is not allowed"),
        ({"think_tags": ["think>", "</think>"]}, "think_tags .* is not allowed: .*within the other"),
        ({"think_tags": "<think>"}, "think_tags '<think>' is not allowed: .*no JSON"),
        ({"think_tags": [1, 2]}, r"think_tags.0 1 is not allowed"),
        ({"chat_template_kwargs": "enable"}, "chat_template_kwargs 'enable' is not allowed: .*no JSON"),
        ({"chat_template_kwargs": [1]}, r"chat_template_kwargs \[1\] is not allowed"),
        ({"chat_template_kwargs": '{"a": 1e999}'}, "chat_template_kwargs"),
    ],
)
def test_bad_values_are_told_in_a_sentence(values, sentence):
    with pytest.raises(InputError, match=sentence):
        make_condition(values)


def with_other_date(lm):
    """The same model, whose template prints another date without asking."""
    lm.tokenizer.chat_template = lm.tokenizer.chat_template.replace("strftime_now('%d %B %Y')", "'5 May'")
    return lm


def test_a_killed_run_is_not_resumed_with_other_prompts(output, tmp_path, monkeypatch):
    lm = loaded(tmp_path / "model", template=DATED)
    condition = condition_of(lm, batch_size=1)
    runs = module.run_prompts(condition, lm)
    next(runs)
    runs.close()
    (saved,) = [record for record, _ in Checkpoint(condition).load()]
    monkeypatch.setattr(module, "generate", lambda *_: pytest.fail("something was generated"))
    with pytest.raises(InputError, match=f"prompt {saved.prompt_id} has other tokens .*{saved.prompt_hash}"):
        module.run_condition(condition, with_other_date(lm))
    monkeypatch.undo()
    monkeypatch.setenv("KVHELPERS_OUTPUT", str(output))
    assert len(Checkpoint(condition).finished()) == 1
    again = load_model(lm.name, device="cpu")
    assert {record.prompt_index for record in module.run_condition(condition, again).records} == {0, 1}


def test_a_finished_result_of_other_prompts_is_not_returned(output, tmp_path):
    lm = loaded(tmp_path / "model", template=DATED)
    condition = condition_of(lm)
    result = module.run_condition(condition, lm)
    assert module.run_condition(condition, lm) == result == module.run_condition(condition)
    with pytest.raises(InputError, match="has other tokens .*restore it, or move these results away"):
        module.run_condition(condition, with_other_date(lm))


def test_verify_compares_prompts_with_what_was_run(output, tmp_path):
    lm = loaded(tmp_path / "model", template=DATED)
    result = module.run_condition(condition_of(lm), lm)
    done = verify("scratch")
    assert (done.faults, done.unasked) == ([], 0)
    data = json.loads(result.path.read_text())
    data["records"][1]["prompt_hash"] = "0" * 16
    result.path.write_text(json.dumps(sealed(data, result.signals_path)))
    (fault,) = verify("scratch").faults
    assert f"prompt {result.records[1].prompt_id} has other tokens" in fault
    for path in (tmp_path / "model").iterdir():
        path.unlink()
    done = verify("scratch")  # without the tokenizer nothing can be compared, and that is said
    assert (done.faults, done.unasked, done.unread) == ([], 1, 1)


def test_a_template_s_unknown_parameter_is_refused_before_anything_runs(output, tmp_path):
    lm = loaded(tmp_path / "model", template=QWEN3)
    condition = condition_of(lm, chat_template_kwargs={"thinking": False})
    with pytest.raises(InputError, match="'thinking' is unknown; did you mean 'enable_thinking'"):
        module.run_condition(condition, lm)
    assert not list(output.rglob("*.parquet"))


def test_another_date_makes_other_hashes(output, tmp_path):
    lm = loaded(tmp_path / "model", template=DATED)
    hashes = [
        record.prompt_hash
        for date in ("2025-01-01", "2025-01-02")
        for record in module.run_condition(condition_of(lm, experiment=date, template_date=date), lm).records
    ]
    assert len(set(hashes)) == 4
