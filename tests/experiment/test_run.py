import copy
import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from assert_same import assert_same

from kvhelpers.errors import InputError
from kvhelpers.experiment import run as module
from kvhelpers.experiment.checkpoint import Checkpoint
from kvhelpers.experiment.condition import make_condition
from kvhelpers.experiment.identity import SCHEMA_VERSION
from kvhelpers.experiment.results import find_finished, read_experiment, read_result, result_path
from kvhelpers.frames import runs as runs_frame
from kvhelpers.generation import generate as generation
from kvhelpers.generation.generate import Settings
from kvhelpers.generation.prefill import Prefiller
from kvhelpers.log import screen_text, write_log
from kvhelpers.records import SCALARS, Record, StopReason
from kvhelpers.tasks.prompts import STOP_STRINGS

SMALL = {"n_prompts": 4, "n_fewshot": 1, "max_new_tokens": 16, "ratio": 0.5, "device": "cpu"}


def small(**changes):
    return make_condition(SMALL | changes)


def test_a_condition_is_written_whole_and_read_back(output, stand_in):
    result = module.run_condition(small(experiment="mine"), stand_in)
    assert result.path == output / "data/results/mine/streaming_llm/smollm2-135m_0.5_4p.json"
    read = read_result(result.path)
    assert read == result and read.schema_version == SCHEMA_VERSION and len(read.records) == 4
    check = read.provenance.self_check
    assert check.deviation < check.bound and check.attn == "sdpa" and check.pressed
    signals = read.signals()
    assert set(SCALARS) < set(signals.columns) and len(signals) == sum(r.n_tokens for r in read.records)
    assert signals.groupby("prompt_index")["entropy_change"].first().notna().all()
    assert np.isnan(signals["entropy_change"][signals["step"] == 0]).all()
    assert all(len(row) == 20 for row in signals["top20_logprob"])
    assert [p.name for p in result.path.parent.iterdir() if p.suffix not in (".json", ".parquet")] == []
    assert [c.label for c in read_experiment("mine")] == ["streaming_llm 0.5"]


def test_a_run_says_what_is_kept_of_its_question(output, stand_in):
    """StreamingLLM keeps the first 4 tokens and the last ones."""
    result = module.run_condition(small(ratio=0.9, max_new_tokens=2), stand_in)
    for prompt, record in zip(module.prompts_of(result.condition, stand_in), result.records, strict=True):
        n, (start, end) = len(prompt.token_ids), prompt.question_tokens
        last = n - (int(n * (1 - 0.9)) - 4)
        expected = sum(place < 4 or place >= last for place in range(start, end)) / (end - start)
        assert 0 < expected < 1 and record.cache.question_kept == pytest.approx(expected, abs=1e-4)


def test_a_finished_condition_is_not_run_again(output, stand_in, monkeypatch):
    first = module.run_condition(small(), stand_in)
    monkeypatch.setattr(
        module, "load_for", lambda condition: pytest.fail("the model was loaded for a finished condition")
    )
    assert module.run_condition(small(batch_size=2)) == first


def test_another_configuration_never_overwrites(output, stand_in):
    path = module.run_condition(small(experiment="mine"), stand_in).path
    before = path.read_bytes()
    with pytest.raises(
        InputError, match=r"already holds .* \(max_new_tokens 16 → 8\); run it under another experiment name"
    ):
        module.run_condition(small(experiment="mine", max_new_tokens=8), stand_in)
    assert path.read_bytes() == before


def test_results_of_another_schema_or_broken_ones_are_named(output, stand_in):
    path = module.run_condition(small(), stand_in).path
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"schema_version": 99}))
    with pytest.raises(InputError, match="has schema version 99; this version reads 5: delete it"):
        find_finished(small())
    path.write_text(path.read_text()[:100])
    with pytest.raises(InputError, match="is no readable condition result"):
        find_finished(small())
    path.write_text(json.dumps(data))
    signals = path.with_suffix(".parquet")
    signals.write_bytes(signals.read_bytes()[:200])
    with pytest.raises(InputError, match="signals file .* was changed after it was written"):
        read_result(path).signals()


def test_an_interrupted_condition_goes_on_and_repeats_no_finished_prompt(output, stand_in, monkeypatch):
    whole = module.run_condition(small(experiment="whole"), stand_in)
    condition, generated = small(batch_size=2), []
    real = generation.generate

    def interrupted(lm, requests, settings, passes):
        generated.append(len(requests))
        for count, run in enumerate(real(lm, requests, settings)):
            if len(generated) == 1 and count == 2:
                raise KeyboardInterrupt
            yield run

    monkeypatch.setattr(module, "generate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        module.run_condition(condition, stand_in)
    assert not result_path(condition).exists() and len(list(Checkpoint(condition).load())) == 2
    resumed = module.run_condition(condition, stand_in)
    assert generated == [4, 2]
    assert {record.batch_size for record in resumed.records} == {2}
    assert {record.batch_size for record in whole.records} == {4}
    assert_same(resumed, whole)
    assert not Checkpoint(condition).folder.exists()


RUN = "from kvhelpers.experiment import make_condition, run_condition; run_condition(make_condition({!r}))"


def test_kill_9_in_the_middle_changes_nothing(output, counting):
    """A process is killed once some prompts are finished; a second one ends with an undisturbed run's
    results.
    """
    values = SMALL | {"model": counting.name, "n_prompts": 12, "batch_size": 2, "max_new_tokens": 60}
    undisturbed = module.run_condition(make_condition(values | {"experiment": "undisturbed"}), counting)
    condition = make_condition(values | {"experiment": "killed"})
    process = subprocess.Popen(
        [sys.executable, "-c", RUN.format(condition.model_dump())], env=dict(os.environ)
    )
    folder = Checkpoint(condition).folder
    deadline = time.monotonic() + 120
    while len(finished := sorted(folder.glob("[0-9]*.parquet"))) < 2 and time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not result_path(condition).exists()
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("[0-9]*.parquet")}
    assert 2 <= len(finished) <= len(stamps) < 12
    kept = shutil.copytree(folder, output / "kept")
    resumed = module.run_condition(condition, counting)
    assert_same(resumed, undisturbed)
    for path in kept.glob(
        "[0-9]*.parquet"
    ):  # the finished prompts' own records are in the result, times included
        record = Record.model_validate_json(pq.read_schema(path).metadata[b"record"])
        assert record in resumed.records


def test_a_budget_above_the_prompt_is_refused_before_anything_is_written(output, stand_in):
    with pytest.raises(InputError, match="budget 4000 is above the prompt's"):
        module.run_condition(small(ratio=None, budget=4000), stand_in)
    assert list(output.iterdir()) == []


CONTEXT = {"press": "random", "multiturn": False, "compress": "context", "n_fewshot": 3}


def test_a_context_is_compressed_once_and_its_numbers_are_its_own(output, stand_in, monkeypatch):
    """A killed condition goes on with the same cache, which depends on the context and not on the prompt."""
    prefilled, prefill = [], Prefiller.__call__
    monkeypatch.setattr(
        Prefiller, "__call__", lambda *args, **more: prefilled.append(len(args[1])) or prefill(*args, **more)
    )
    whole = module.run_condition(small(**CONTEXT, experiment="whole"), stand_in)
    assert prefilled == [1]
    condition = small(**CONTEXT, batch_size=1)
    prompts = module.prompts_of(condition, stand_in)
    assert len({tuple(prompt.compressed) for prompt in prompts}) == 1
    runs = module.run_prompts(condition, stand_in)
    next(runs), next(runs)
    runs.close()
    assert_same(module.run_condition(condition, stand_in), whole)
    for record, prompt in zip(whole.records, prompts, strict=True):
        cache = record.cache
        assert record.prompt_tokens == len(prompt.token_ids) > cache.prompt_tokens == prompt.context
        assert cache.kept_tokens == int(prompt.context * 0.5) and cache.question_kept == 1
        assert record.removed == pytest.approx(0.5, abs=0.01)
    own = runs_frame([whole])
    assert set(own["compressed_tokens"]) == {prompts[0].context} and set(own["question_kept"]) == {1.0}
    log = write_log("whole").read_text()
    assert f"compress `context`: ratio, budget and kept tokens are of the {prompts[0].context} tokens" in log
    assert f"of {prompts[0].context}" in screen_text([whole])


def test_flags_and_budgets_of_a_compressed_context_are_of_the_context(output, stand_in):
    condition = small(**CONTEXT | {"press": "snapkv", "n_fewshot": 1, "ratio": 0.5})
    (size,) = {prompt.context for prompt in module.prompts_of(condition, stand_in)}
    wide = {"press_kwargs": {"window_size": size + 1}}  # not as wide as the whole prompt
    failed = module.run_condition(condition.model_copy(update=wide), stand_in)
    assert failed.summary.flags == {"run_failed": 4, "prompt_within_window": 4}
    narrow = {"press_kwargs": {"window_size": size // 2 + 2}, "experiment": "narrow"}
    narrowed = module.run_condition(condition.model_copy(update=narrow), stand_in)
    assert narrowed.summary.flags == {"kept_within_window": 4, "sink_evicted": 4}
    few = condition.model_copy(update={"press": "knorm", "ratio": None, "budget": 9, "experiment": "few"})
    result = module.run_condition(few, stand_in)
    assert {record.cache.kept_tokens for record in result.records} == {9}
    with pytest.raises(InputError, match=f"budget {size + 1} is above the prompt's {size} tokens that can"):
        module.run_condition(few.model_copy(update={"budget": size + 1, "experiment": "many"}), stand_in)


def test_failed_prompts_stay_in_the_denominator(output, stand_in):
    result = module.run_condition(small(press="snapkv", press_kwargs={"window_size": 1000}), stand_in)
    assert (result.summary.accuracy.count, result.summary.accuracy.n) == (0, 4)
    assert result.summary.stop_reasons == {"error": 4} and result.summary.kept_tokens is None
    assert result.summary.flags == {"run_failed": 4, "prompt_within_window": 4}
    assert result.summary.cfr.count == 4


def test_a_condition_without_a_token_has_a_log_that_says_so(output, stand_in):
    module.run_condition(small(press="snapkv", press_kwargs={"window_size": 1000}), stand_in)
    log = write_log("scratch").read_text()
    assert "4 runs broke or were stopped by `timeout_s`" in log and "nan" not in log
    assert "`run_failed`: the run ended in an error" in log


def test_a_model_that_ends_at_once_has_results_and_a_log(output, stand_in):
    """Its first token is the end token, whatever it is asked."""
    ends_at_once = copy.deepcopy(stand_in.model)
    (end,) = sorted(stand_in.stop_ids)[:1]
    forward = ends_at_once.forward

    def only_the_end(*args, **kwargs):
        out = forward(*args, **kwargs)
        out.logits[..., end] = out.logits.max() + 1
        return out

    ends_at_once.forward = only_the_end
    result = module.run_condition(small(), dataclasses.replace(stand_in, model=ends_at_once))
    assert [record.text for record in result.records] == [""] * 4
    assert result.summary.stop_reasons == {"eos": 4} and result.summary.avg_tokens == 1
    assert result.summary.cfr.count == 4 and "nan" not in write_log("scratch").read_text()


def test_runs_out_of_time_are_counted_and_no_evidence_about_the_press(output, stand_in):
    result = module.run_condition(small(press="knorm", timeout_s=1e-9), stand_in)
    assert result.summary.stop_reasons == {"timeout": 4} and result.summary.flags == {"timed_out": 4}
    assert (result.summary.cfr.count, result.summary.cfr.n) == (4, 4) and result.is_invalid
    log = write_log("scratch").read_text()
    assert "`timed_out` in 1. †: no valid evidence" in log and "| knorm 0.5 † |" in log
    in_time = module.run_condition(small(press="knorm", timeout_s=1e9, experiment="in-time"), stand_in)
    assert in_time.summary.flags == {} and not in_time.is_invalid


def test_a_window_that_does_not_fit_is_flagged_in_the_result_and_the_log(output, stand_in):
    result = module.run_condition(small(press="snapkv", ratio=0.875), stand_in)
    assert result.summary.flags == {"kept_within_window": 4, "sink_evicted": 4}
    log = write_log("scratch").read_text()
    assert "| snapkv 0.875 † |" in log and "`kept_within_window` in 1" in log


def test_conditions_of_an_experiment_differ_in_their_press_only(output, stand_in):
    module.run_condition(small(experiment="mine"), stand_in)
    with pytest.raises(InputError, match=r"already holds .* \(seed 42 → 1\)"):
        module.run_condition(small(experiment="mine", press="knorm", seed=1), stand_in)
    with pytest.raises(InputError, match="n_prompts 4 → 3"):
        module.run_condition(small(experiment="mine", n_prompts=3), stand_in)


def test_every_knob_reaches_the_generation(output, stand_in, monkeypatch):
    seen = {}

    def spy(lm, requests, settings, passes):
        seen.update(requests=requests, settings=settings)
        return iter(())

    monkeypatch.setattr(module, "generate", spy)
    condition = small(
        repetition_penalty=1.2, timeout_s=9.0, batch_size=3, multiturn=False, press_kwargs={"n_sink": 2}
    )
    prompts = module.prompts_of(condition, stand_in)
    rows = module.rows_together(condition, stand_in, prompts)
    list(module.generate_prompts(condition, stand_in, prompts, rows))
    wanted = Settings(16, 3, stop_strings=STOP_STRINGS, repetition_penalty=1.2, timeout_s=9.0)
    assert seen["settings"] == wanted
    assert [request.token_ids for request in seen["requests"]] == [prompt.token_ids for prompt in prompts]
    assert len({request.seed for request in seen["requests"]}) == 4
    press = seen["requests"][0].press
    assert (press.n_sink, press.compression_ratio) == (2, 0.5)
    assert [message["role"] for message in prompts[0].messages] == ["user"]


def test_a_resumed_condition_counts_the_time_before_the_kill(output, stand_in, monkeypatch):
    ticks = itertools.count(step=10)  # each look at the clock is 10 s after the last
    monkeypatch.setattr(module.time, "monotonic", lambda: next(ticks))
    condition = small(batch_size=1)
    runs = module.run_prompts(condition, stand_in)
    next(runs), next(runs)
    runs.close()
    before = {record.prompt_index: record.wall_seconds for record, _ in Checkpoint(condition).load()}
    resumed = module.run_condition(condition, stand_in)
    after = {record.prompt_index: record.wall_seconds for record in resumed.records}
    assert len(before) == 2 and before.items() < after.items()
    assert resumed.seconds == sum(after.values()) > sum(before.values()) > 0


def test_a_resumed_condition_names_the_commits_of_all_its_prompts(output, stand_in, monkeypatch):
    condition, earlier = small(batch_size=1), "e" * 40
    monkeypatch.setattr("kvhelpers.experiment.checkpoint.code_version", lambda: (earlier, True))
    runs = module.run_prompts(condition, stand_in)
    next(runs)
    runs.close()
    monkeypatch.undo()
    monkeypatch.setenv("KVHELPERS_OUTPUT", str(output))
    made = module.run_condition(condition, stand_in).provenance
    assert made.earlier_commits == (earlier,) and made.commit != earlier


def test_failed_prompts_are_tried_again_on_resume(output, stand_in):
    condition = small()
    errored = module.run_condition(small(experiment="x", timeout_s=1e-9), stand_in).records[0]
    Checkpoint(condition).save(
        errored.model_copy(update={"stop_reason": StopReason.ERROR, "n_tokens": 0}), {}
    )
    result = module.run_condition(condition, stand_in)
    assert "error" not in result.summary.stop_reasons and len(result.records) == 4


def test_a_looping_record_says_where_its_text_begins_to_loop(output, embedded):
    result = module.run_condition(small(press="snapkv", ratio=0.875, max_new_tokens=80), embedded)
    looping = [record for record in result.records if record.failures.looping]
    assert looping
    for record in looping:
        assert 0 <= record.loop_onset_char < len(record.text)


def test_uncompressed_run_is_the_none_condition_s_finished_or_not(output, stand_in, monkeypatch):
    monkeypatch.setattr(module, "load_for", lambda _: stand_in)
    condition = small()
    fresh, tokens = module.uncompressed_run(condition, 2)
    assert not list(output.iterdir())
    bare = module.run_condition(condition.uncompressed(), stand_in)
    finished, same = module.uncompressed_run(condition, 2)
    assert finished == bare.records[2]
    assert (fresh.text, fresh.n_tokens, fresh.answer) == (finished.text, finished.n_tokens, finished.answer)
    columns = ["step", "token_id", "char_end"]
    assert tokens[columns].values.tolist() == same[columns].values.tolist()
    np.testing.assert_allclose(tokens["entropy"], same["entropy"], rtol=1e-4, atol=1e-5)


def test_a_half_written_temporary_file_does_not_block_the_experiment(output, stand_in):
    path = result_path(small())
    path.parent.mkdir(parents=True)
    path.with_name(f".999-{path.name}").write_text('{"half')
    assert find_finished(small()) is None
    assert module.run_condition(small(), stand_in).path == path
    assert [c.path for c in read_experiment("scratch")] == [path]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"source": "hub:owner/other"}, "loaded with model 'hub:owner/other', the condition has 'gguf:"),
        ({"dtype": "bfloat16"}, "loaded with dtype 'bfloat16', the condition has 'float32'"),
        ({"attn": "eager"}, "loaded with attn 'eager', the condition has 'sdpa'"),
    ],
)
def test_another_model_than_the_condition_s_is_refused(output, stand_in, given, sentence):
    condition = make_condition({"n_prompts": 1, "max_new_tokens": 2, "device": "cpu"})
    with pytest.raises(InputError, match=sentence):
        module.run_condition(condition, dataclasses.replace(stand_in, **given))
    assert not list(output.rglob("*.parquet"))


def test_a_quantized_condition_is_run_written_and_compared(output, embedded):
    """Two bits of keys destroy what a full cache keeps; eight change little."""
    plain, eight, two = (
        module.run_condition(small(press="none", ratio=0.0, **formats), embedded)
        for formats in (
            {},
            {"cache_type_k": "q8_0", "cache_type_v": "q8_0"},
            {"cache_type_k": "int2", "cache_type_v": "int2", "cache_kwargs": {"residual": 32}},
        )
    )
    assert [result.label for result in read_experiment("scratch")] == [plain.label, two.label, eight.label]
    assert read_result(eight.path) == eight and eight.identity["cache_type_k"] == "q8_0"
    nominal = [sum(r.cache.nominal_bytes for r in result.records) for result in (plain, eight)]
    assert nominal[1] / nominal[0] == pytest.approx(8.5 / 16)
    assert [r.cache.kept_tokens for r in eight.records] == [r.cache.kept_tokens for r in plain.records]
    texts = [[record.text for record in result.records] for result in (plain, eight, two)]
    assert texts[0] != texts[2] and not (plain.summary.flags or two.summary.flags)
    assert "none (K q8_0, V q8_0)" in write_log("scratch").read_text()


def test_a_residual_window_longer_than_the_run_is_flagged(output, embedded):
    formats = {"cache_type_k": "int4", "cache_kwargs": {"residual": 4096}}
    result = module.run_condition(small(press="none", ratio=0.0, **formats), embedded)
    assert result.summary.flags == {"residual_not_filled": 4} and result.is_invalid
