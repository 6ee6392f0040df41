"""Thinking models under lm-evaluation-harness: its own treatment of thoughts is the reference."""

import json

import pytest
from reference import CHAT, save_answering

from kvhelpers.__main__ import main
from kvhelpers.commands.verify import verify
from kvhelpers.errors import InputError
from kvhelpers.paths import REPOSITORY

pytest.importorskip("lm_eval")
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import postprocess_generated_text
from lm_eval.tasks import TaskManager

from kvhelpers.lm_eval import CompressedLM, Prompting, evaluate

TASKS = str(REPOSITORY / "data/tasks")
DRAFT, ANSWER = ["Let me see", ":\n#### 9"], ["\nIt is ", "8.\n#### 8"]
PLAIN = CHAT.removesuffix("{% endif %}")
QWEN3 = PLAIN + "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
R1 = PLAIN + "<think>\n{% endif %}"
UNTIL = ["Question:", "\n\n"]


@pytest.fixture
def made(tmp_path):
    def made(pieces, template):
        return str(save_answering(tmp_path / "model", pieces, template))

    return made


def asked(lm, text="How many?"):
    """A request as the harness makes it, under the model's chat template."""
    prompt = lm.apply_chat_template([{"role": "user", "content": text}])
    arguments = (prompt, {"until": UNTIL, "max_gen_toks": 20})
    return Instance("generate_until", {}, arguments, 0, metadata=("task", 0, 1))


@pytest.mark.parametrize(
    ("pieces", "template"),
    [
        (["<think>", *DRAFT, "</think>", *ANSWER], QWEN3),
        ([*DRAFT, "</think>", "\n\n \n", *ANSWER], R1),
        (["<think>", *DRAFT, "</think>", *ANSWER, "\nQuestion:", " no"], QWEN3),
        (["<think>", *DRAFT, "\n#### 8"], QWEN3),
        ([" #### 8"], QWEN3),
        (["a", "</think>", "b", "</th", "ink>", "c"], QWEN3),
    ],
)
def test_the_harness_gets_what_its_own_model_gives_it(output, made, pieces, template):
    folder = made(pieces, template)
    ours = CompressedLM(model=folder, press="none", device="cpu")
    theirs = HFLM(pretrained=folder, device="cpu", dtype="float32", batch_size=1, think_end_token="</think>")
    got = ours.generate_until([asked(ours)], disable_tqdm=True)
    assert asked(ours).args[0] == asked(theirs).args[0]
    if "\n\n \n" not in pieces:  # which ends its model's answer before it begins
        assert got == theirs.generate_until([asked(theirs)], disable_tqdm=True)
    assert got == [postprocess_generated_text("".join(pieces), UNTIL, "</think>")]


def test_stop_texts_of_the_task_do_not_stop_thoughts(output, made):
    pieces = ["<think>", "a\n\n", "Question: b", "</think>", *ANSWER, "\n\n", "c"]
    lm = CompressedLM(model=made(pieces, QWEN3), press="knorm", ratio=0.5, device="cpu")
    whole = postprocess_generated_text("".join(pieces), UNTIL, "</think>")
    assert lm.generate_until([asked(lm)], disable_tqdm=True) == [whole] == ["It is 8.\n#### 8"]
    pieces = ["a\n\n", "b", "</think>", *ANSWER]
    lm = CompressedLM(model=made(pieces, R1), press="knorm", ratio=0.5, device="cpu")
    assert lm.generate_until([asked(lm)], disable_tqdm=True) == ["It is 8.\n#### 8"]
    raw = Instance("generate_until", {}, ("No chat", asked(lm).args[1]), 0, metadata=("task", 1, 1))
    assert lm.generate_until([raw], disable_tqdm=True) == ["a"]  # its prompt opens no thoughts


def test_parameters_of_the_template_and_the_date_reach_the_prompt(output, made):
    folder = made(["#### 8"], "{{ strftime_now('%Y') }} " + QWEN3)
    texts = [
        asked(CompressedLM(model=folder, press="none", device="cpu", **given)).args[0]
        for given in (
            {},
            {"chat_template_kwargs": '{"enable_thinking": false}'},
            {"template_date": "1999-12-31"},
        )
    ]
    assert texts[0].startswith("2025 ") and texts[1] == texts[0] + "<think>\n\n</think>\n\n"
    assert texts[2] == texts[0].replace("2025", "1999", 1)


def test_a_message_that_the_template_alters_is_refused(output, made):
    lm = CompressedLM(model=made(["a"], CHAT), press="none", device="cpu")
    lm.lm.tokenizer.chat_template = CHAT.replace("message.content }}", "message.content[:9] }}")
    with pytest.raises(InputError, match="does not render a prompt for model .* the user's message"):
        asked(lm, "Longer than nine")
    lm.lm.tokenizer.chat_template = CHAT.replace("message.content }}", "message.content | trim }}")
    assert "Longer than nine<" in asked(lm, " Longer than nine\n").args[0]


def test_results_say_what_was_thought_and_a_wrong_name_is_a_sentence(output, made, monkeypatch, capsys):
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(
        "kvhelpers.lm_eval.evaluation.TaskManager",
        lambda **given: TaskManager(include_defaults=False, **given),
    )
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda storage: None)
    folder = made(["<think>", *DRAFT, "Question: ?", "</think>", *ANSWER], QWEN3)
    parameters = {"model": folder, "press": "knorm", "ratio": 0.5, "device": "cpu"}
    given = {"include_path": TASKS, "limit": 2, "gen_kwargs": "max_gen_toks=30", "num_fewshot": 0}
    done = evaluate(["onestep"], parameters, Prompting(apply_chat_template=True), name="t", **given)
    (result,) = done.conditions
    for record in result.records:
        assert (record.thinking_tokens, record.answer.value, record.n_tokens) == (5, "8", 8)
        assert record.marks.keys() == {"exact_match,strict-match", "exact_match,flexible-extract"}
    (samples,) = done.folder.glob("*/samples_onestep_*.jsonl")
    for sample in map(json.loads, samples.read_text().splitlines()):
        assert sample["resps"] == [["It is 8.\n#### 8"]]
    assert verify("t-onestep").faults == []
    command = ["lm-eval", "--tasks", "onestep", "--include-path", TASKS, "--model", folder, "--press", "none"]
    assert main([*command, "--chat-template-kwargs", '{"enable_thinkin": false}']) == 2
    assert "'enable_thinkin' is unknown; did you mean 'enable_thinking'" in capsys.readouterr().err
