"""Tasks of lm-evaluation-harness under a press: the harness's answers, marks and model are the reference."""

import json
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import datasets
import pytest
import yaml
from reference import alone

from kvhelpers import frames
from kvhelpers.__main__ import main
from kvhelpers.commands.rescore import rescore
from kvhelpers.commands.verify import verify
from kvhelpers.errors import InputError
from kvhelpers.experiment.checkpoint import Checkpoint
from kvhelpers.experiment.condition import make_condition
from kvhelpers.experiment.grid import finished_results
from kvhelpers.experiment.identity import hash_of
from kvhelpers.experiment.results import read_result
from kvhelpers.experiment.run import judged
from kvhelpers.experiment.seal import sealed
from kvhelpers.hazard import read_risk_set
from kvhelpers.log import mean_marks
from kvhelpers.paths import REPOSITORY, samples_dir
from kvhelpers.presses.spec import PressSpec
from kvhelpers.records import StopReason
from kvhelpers.scoring.score import Ended
from kvhelpers.tasks.answers import clean, is_right
from kvhelpers.tasks.load import load_problems

harness = pytest.importorskip("lm_eval")
from lm_eval.models.huggingface import HFLM  # noqa: E402

from kvhelpers.lm_eval import CompressedLM, Prompting, evaluate  # noqa: E402
from kvhelpers.lm_eval.recorded import marking_hash  # noqa: E402

TASKS = REPOSITORY / "data/tasks"
PRESS = {"press": "streaming_llm", "budget": 56}
SHORT = {"include_path": str(TASKS), "limit": 5, "gen_kwargs": "max_gen_toks=48"}
CHAT = Prompting(apply_chat_template=True)
LocalTasks = partial(harness.tasks.TaskManager, include_defaults=False)
INVALID = "[invalid]"  # where a filter of the harness finds nothing


@pytest.fixture(scope="module", autouse=True)
def apart(tmp_path_factory, embedded):
    """The model that is already loaded, and no file outside the test's folders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        patch.setattr("kvhelpers.lm_eval.model.load_for", lambda condition: embedded)
        patch.setattr("kvhelpers.lm_eval.evaluation.TaskManager", LocalTasks)  # its index takes seconds
        patch.setattr("lm_eval.evaluator.add_env_info", lambda storage: None)  # and so does this
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        yield


@pytest.fixture
def quick(stand_in, monkeypatch):
    """The stand-in, for tests that do not ask what the model says."""
    monkeypatch.setattr("kvhelpers.lm_eval.model.load_for", lambda condition: stand_in)
    return stand_in


@pytest.fixture(scope="module")
def evaluated(apart, tmp_path_factory):
    """What the harness and this project say of the same runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KVHELPERS_OUTPUT", str(tmp_path_factory.mktemp("output")))
        done = evaluate(["onestep"], PRESS, CHAT, name="h", command="made by hand", **SHORT)
        (samples,) = done.folder.glob("*/samples_onestep_*.jsonl")
        yield SimpleNamespace(done=done, samples=list(map(json.loads, samples.read_text().splitlines())))


def task_file(folder, **changes):
    """The committed task under another name, with some of its keys changed."""
    task = yaml.safe_load((TASKS / "onestep.yaml").read_text()) | {"task": "changed"} | changes
    (folder / "changed.yaml").write_text(yaml.safe_dump(task))
    return {"include_path": str(folder)}


def test_both_find_the_same_answers(evaluated):
    (result,) = evaluated.done.conditions
    assert len(evaluated.samples) == 2 * len(result.records) == 10
    for sample in evaluated.samples:
        record, rule = result.records[sample["doc_id"]], sample["filter"]
        ours = {"strict-match": record.answer.strict, "flexible-extract": record.answer.flexible}[rule]
        (theirs,) = sample["filtered_resps"]
        assert (None if theirs == INVALID else clean(theirs)) == ours
        assert sample["exact_match"] == is_right(ours, record.reference)
        assert record.marks[f"exact_match,{rule}"] == sample["exact_match"]
        assert sample["resps"] == [[record.text.partition("Question:")[0]]]
    found = {(record.answer.decided_by, record.correct) for record in result.records}
    assert len(found) > 1  # so that the comparison could have failed


def test_the_table_is_the_harness_s(evaluated):
    table = evaluated.done.table().set_index("Filter")
    for rule in ("strict-match", "flexible-extract"):
        right = [sample["exact_match"] for sample in evaluated.samples if sample["filter"] == rule]
        assert table.loc[rule, "Value"] == pytest.approx(sum(right) / len(right))
    assert set(table["Examples"]) == {4}


def test_prompts_and_answers_are_those_of_experiment_001(output):
    """The same problems, examples as turns and press, asked by the harness instead of this project."""
    press = {"press": "streaming_llm", "ratio": 0.875}
    committed = read_result(
        samples_dir() / "001-reproduce-failures/streaming_llm/smollm2-135m_0.875_20p.json"
    )
    done = evaluate(["onestep"], press, CHAT, name="same", **SHORT | {"limit": 3})
    for ours, theirs in zip(done.conditions[0].records, committed.records, strict=False):
        assert theirs.text.startswith(ours.text) and ours.n_tokens == min(48, theirs.n_tokens)
        noted = theirs.cache.model_dump(exclude_none=True)  # later runs note more
        assert noted.items() <= ours.cache.model_dump().items() and ours.reference == theirs.reference
        assert ours.question == theirs.question


def test_the_committed_task_has_the_problems_of_onestep():
    problems, examples = load_problems("onestep", 20, 4, 42)
    for name, rows in (("test", problems), ("train", examples)):
        lines = (TASKS / f"onestep-{name}.jsonl").read_text().splitlines()
        assert list(map(json.loads, lines)) == [{"question": p.asked, "answer": p.solution} for p in rows]


def test_results_say_how_they_were_made_and_hold_together(evaluated):
    (result,) = evaluated.done.conditions
    condition = result.condition
    assert (condition.experiment, condition.task) == ("h-onestep", "lm_eval:onestep")
    assert (condition.n_prompts, condition.n_fewshot, condition.multiturn) == (5, 4, True)
    assert condition.max_new_tokens == 48 and result.provenance.command == "made by hand"
    assert result.identity["data"] == f"lm-evaluation-harness {harness.__version__}"
    assert len(result.signals()) == sum(record.n_tokens for record in result.records)
    assert verify("h-onestep").faults == []
    assert rescore("h-onestep") == (0, 5)


def test_what_02_and_03_read_is_there(evaluated):
    results = finished_results("h-onestep")
    assert len(frames.runs(results)) == 5
    loops = SHORT | {"limit": 2, "gen_kwargs": "max_gen_toks=128"}
    evaluate(["onestep"], {"press": "random", "ratio": 0.875}, CHAT, name="loops", **loops)
    risk, _ = read_risk_set(["h-onestep", "loops-onestep"], str(results[0].path.parents[2]))
    assert len(risk.runs) == 7 and risk.runs.groupby("experiment")["failed"].any().to_dict() == {
        "h-onestep": False,
        "loops-onestep": True,
    }


def test_a_second_call_runs_nothing_and_a_killed_one_goes_on(output, quick, monkeypatch):
    settings = SHORT | {"gen_kwargs": "max_gen_toks=6"}
    save, saved = Checkpoint.save, []

    def save_two(checkpoint, record, *rest):
        if len(saved) == 2:
            raise KeyboardInterrupt
        save(checkpoint, record, *rest)
        saved.append(record.prompt_index)

    monkeypatch.setattr(Checkpoint, "save", save_two)
    with pytest.raises(KeyboardInterrupt):
        evaluate(["onestep"], PRESS, CHAT, name="killed", **settings)
    rest = []
    monkeypatch.setattr(Checkpoint, "save", lambda *given: rest.append(given[1].prompt_index) or save(*given))
    first = evaluate(["onestep"], PRESS, CHAT, name="killed", **settings)
    assert sorted([*saved, *rest]) == list(range(5)) and len(saved) == 2
    again = evaluate(["onestep"], PRESS, CHAT, name="killed", **settings)
    assert len(rest) == 3 and again.conditions == first.conditions
    assert again.harness["results"] == first.harness["results"]
    with pytest.raises(InputError, match=r"experiment 'killed-onestep' already holds .*n_prompts 5 → 4"):
        evaluate(["onestep"], PRESS, CHAT, name="killed", **settings | {"limit": 4})


def test_uncompressed_answers_are_those_of_the_harness_s_own_model(quick, output):
    """Chat template, special tokens, stop texts and limit: all as HFLM has them."""
    theirs = HFLM(pretrained=quick.model, tokenizer=quick.tokenizer, device="cpu", batch_size=1)
    ours = CompressedLM(press="none", device="cpu")
    manager = LocalTasks(include_path=str(TASKS))
    answers = []
    for lm in (ours, theirs):
        run = harness.simple_evaluate(
            lm,
            tasks=["onestep"],
            limit=2,
            task_manager=manager,
            gen_kwargs="max_gen_toks=24",
            bootstrap_iters=0,
            system_instruction="Be brief.",
            apply_chat_template=True,
            fewshot_as_multiturn=True,
        )
        answers.append([(sample["arguments"], sample["resps"]) for sample in run["samples"]["onestep"]])
    assert answers[0] == answers[1]
    for text in ("<|im_start|>user\nEva has 6 coins.<|im_end|>\n", "Question: 2 + 2?\nAnswer:", "<s> a"):
        assert ours.tok_encode(text) == theirs.tok_encode(text)


def test_by_name_in_the_harness_with_a_press_s_own_fields(quick, output):
    """Tokens are those of ``model.generate`` inside kvpress's press."""
    fields = 'press_kwargs={"window_size": 16}'
    run = harness.simple_evaluate(
        "kvhelpers",
        model_args=f"press=snapkv,ratio=0.75,{fields}",
        batch_size="2",
        tasks=["onestep"],
        limit=2,
        gen_kwargs="max_gen_toks=16",
        bootstrap_iters=0,
        task_manager=LocalTasks(include_path=str(TASKS)),
        apply_chat_template=True,
    )
    spec = PressSpec("snapkv", 0.75, kwargs={"window_size": 16})
    for sample in run["samples"]["onestep"]:
        prompt = quick.tokenizer.encode(sample["arguments"][0][0])
        tokens = alone(quick, prompt, spec.for_prompt(len(prompt)), 0, 16)
        text = quick.tokenizer.decode(tokens).removesuffix("<|im_end|>")
        assert sample["resps"] == [[text.partition("Question:")[0]]]
    assert not list(output.iterdir())


def test_an_answer_that_is_no_number_is_right_where_the_harness_says_so(output):
    steps = {"function": "regex", "regex_pattern": r"(\w+)"}, {"function": "take_first"}
    first_word = [{"name": "name", "filter": list(steps)}]
    folder = task_file(output, doc_to_target="Sam", filter_list=first_word)
    done = evaluate(["changed"], PRESS, CHAT, name="text", **SHORT | folder)
    marks = [record.marks for record in done.conditions[0].records]
    right = [mark == {"exact_match,name": 1.0} for mark in marks]
    assert [not record.failures.wrong_answer for record in done.conditions[0].records] == right
    assert {*right} == {True, False}
    assert "Sam" not in [record.answer.value for record in done.conditions[0].records]
    assert rescore("text-changed") == (0, 5)


def first_match(pattern, fallback=INVALID):
    """A task's filters: the first match of a pattern, or another text where there is none."""
    regex = {"function": "regex", "regex_pattern": pattern, "fallback": fallback}
    steps = [regex, {"function": "take_first"}]
    return [{"name": "first", "filter": steps}]


def test_marks_decide_where_the_answer_is_a_number_too(output):
    folder = task_file(output, filter_list=first_match(r"(\d+)"))
    (result,) = evaluate(["changed"], PRESS, CHAT, name="number", **SHORT | folder).conditions
    right = [record.marks == {"exact_match,first": 1.0} for record in result.records]
    assert [not record.failures.wrong_answer for record in result.records] == right
    assert [is_right(record.answer.value, record.reference) for record in result.records] != right
    assert mean_marks(result) == f"exact_match,first {sum(right) / 5:.2f}"
    assert rescore("number-changed") == (0, 5) and verify("number-changed").faults == []


def test_a_corrected_filter_does_not_leave_the_old_marks(output):
    def marked(fallback, name="filters"):
        never = first_match("(never said)", fallback)
        folder = task_file(output, doc_to_target="Tom", filter_list=never)
        (result,) = evaluate(["changed"], PRESS, CHAT, name=name, **SHORT | folder | {"limit": 1}).conditions
        return result

    first = marked("Tom")
    with pytest.raises(InputError, match=r"already holds .*another configuration \(task_kwargs .*marking"):
        marked("Sam")
    assert marked("Tom") == first
    corrected = marked("Sam", "corrected")
    assert (first.records[0].marks, corrected.records[0].marks) == (
        {"exact_match,first": 1.0},
        {"exact_match,first": 0.0},
    )
    assert corrected.records[0].text == first.records[0].text
    assert corrected.condition_hash != first.condition_hash


def test_how_a_task_marks_is_hashed_with_the_files_of_its_functions(output):
    def hashed(code="def mark(doc, results): return {'exact_match': 0}", **changes):
        folder = output / str(len(list(output.iterdir())))
        folder.mkdir()
        task_file(folder, **changes)
        text = (folder / "changed.yaml").read_text() + "process_results: !function marks.mark\n"
        (folder / "changed.yaml").write_text(text)
        (folder / "marks.py").write_text(code)
        return marking_hash(LocalTasks(include_path=str(folder)).load(["changed"])["tasks"]["changed"])

    helper = "LEAST = {}\ndef mark(doc, results): return {{'exact_match': LEAST}}"
    different = [
        hashed(),
        hashed(helper.format(0)),
        hashed(helper.format(1)),
        hashed(filter_list=first_match("(8)")),
        hashed(metadata={"version": 9.0}),
    ]
    assert len(set(different)) == len(different)
    assert hashed() == different[0] == hashed(num_fewshot=1)


def test_results_that_do_not_note_how_they_were_marked_are_read_and_not_gone_on_with(output, quick):
    def run():
        return evaluate(["onestep"], PRESS, CHAT, name="old", **SHORT | {"limit": 2})

    (result,) = run().conditions
    data = json.loads(result.path.read_text())
    for place in (data["condition"], data["identity"]):
        del place["task_kwargs"]["marking"]
    data["condition_hash"] = hash_of(data["identity"])
    result.path.write_text(json.dumps(sealed(data, result.signals_path)))
    assert read_result(result.path).records == result.records and verify("old-onestep").faults == []
    with pytest.raises(InputError, match="another configuration"):
        run()


@pytest.mark.parametrize(
    ("text", "marks", "right"),
    [
        (r"the answer is \(\boxed{8}\)$.", {"exact_match,none": 1.0}, True),
        ("eight", {"exact_match,none": 1.0}, True),  # nothing for our rules to find
        ("#### 8", {"exact_match,none": 0.0}, False),
        ("#### 9", {"exact_match,strict-match": 0.0, "exact_match,flexible-extract": 1.0}, True),
        ("#### 8", {"exact_match,none": 0.0, "f1,none": 1.0}, False),  # the first metric says what is right
        ("#### 9", {"bleu_max,none": 37.5}, False),  # of 100
        ("#### 8", {}, True),
        ("#### 8", None, True),
    ],
)
def test_the_harness_s_marks_decide_whatever_our_rules_find(text, marks, right):
    asked = {"requests": "0" * 64, "until": ["Question:"]}
    condition = make_condition({"task": "lm_eval:math", "task_kwargs": asked})
    run = Ended(text, [1], [len(text)], StopReason.EOS)
    scored = judged(condition, "math/0", "8", run, marks)
    assert (scored.correct, scored.failures.wrong_answer) == (right, not right)
    for reason, wrong in ((StopReason.MAX_NEW_TOKENS, not right), (StopReason.ERROR, True)):
        cut = judged(condition, "math/0", "8", Ended(text, [1], [len(text)], reason), marks)
        assert not cut.correct and cut.failures.wrong_answer is wrong


def test_the_command(output, quick, capsys):
    arguments = ["lm-eval", "--press", "knorm", "--ratio", "0.5", "--tasks", "onestep", "--limit", "2"]
    arguments += ["--include_path", str(TASKS), "--gen-kwargs", "max_gen_toks=4", "--name", "c"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "flexible-extract exact_match" in out and "log: experiments/c-onestep.md" in out
    (result,) = finished_results("c-onestep")
    log = (output / "experiments/c-onestep.md").read_text()
    assert f"\n{result.provenance.command}\n" in log and "chosen by lm-evaluation-harness" in log
    assert result.provenance.command.startswith("python -m kvhelpers lm-eval --press knorm")


@pytest.mark.parametrize(
    ("names", "given", "sentence"),
    [
        (["onestpe"], {}, "tasks 'onestpe' is unknown; did you mean 'onestep'"),
        (["onestep"], {"include_path": "nowhere"}, "include_path 'nowhere' is no folder"),
        (["onestep"], {"gen_kwargs": "do_sample=true,temperature=1"}, "task 'onestep' samples its answers"),
        (["onestep"], {"gen_kwargs": "num_beams=4"}, "generation_kwargs num_beams 4 is not supported"),
        (["onestep"], {"name": "a b"}, "experiment 'a b' is not allowed"),
        (["onestep"], {"gen_kwargs": "max_gen_toks=9000"}, "exceeds the model's context"),
    ],
)
def test_bad_input_gets_one_sentence(output, names, given, sentence):
    with pytest.raises(InputError, match=sentence):
        evaluate(names, PRESS, CHAT, **SHORT | given)
    assert not list(output.rglob("*.json"))


def test_loglikelihoods_are_refused(output):
    folder = task_file(output, output_type="multiple_choice", doc_to_choice=["8", "9"], filter_list=None)
    with pytest.raises(InputError, match="its output_type is multiple_choice, and only generated answers"):
        evaluate(["changed"], PRESS, CHAT, **SHORT | folder)
    lm = CompressedLM(**PRESS)
    for method in (lm.loglikelihood, lm.loglikelihood_rolling):
        with pytest.raises(InputError, match="task x asks for loglikelihoods, which are refused"):
            method([SimpleNamespace(task_name="x")])


def test_a_press_that_makes_no_sense_is_refused_before_a_task_is_loaded(output):
    with pytest.raises(InputError, match="press 'snapkw' is unknown"):
        evaluate(["no-task"], {"press": "snapkw"})
    with pytest.raises(InputError, match="compress 'context' is not allowed .* where their question begins"):
        evaluate(["no-task"], {"press": "snapkv", "compress": "context"})
    with pytest.raises(InputError, match="compress 'context' is not allowed"):
        CompressedLM(compress="context")
    with pytest.raises(InputError, match=r"run it by python -m kvhelpers lm-eval --tasks gsm8k"):
        load_problems("lm_eval:gsm8k", 1, 0, 0)


def test_without_the_harness_the_command_says_what_to_install():
    code = "import sys; sys.modules['lm_eval'] = None; from kvhelpers.__main__ import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "lm-eval", "--tasks", "gsm8k"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 2 and run.stderr.splitlines()[-1] == (
        "kvhelpers: error: tasks of lm-evaluation-harness need it; install it with pip install "
        "'kvhelpers[lm-eval]'"
    )
