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
from same import assert_same

from kvhelpers import cell, generation
from kvhelpers.config import make_config
from kvhelpers.errors import InputError
from kvhelpers.log import write_log
from kvhelpers.results import Checkpoint, cell_path, find_finished, read_cell, read_experiment
from kvhelpers.signals import SCALARS
from kvhelpers.tables import results_table
from kvhelpers.tasks import STOP_STRINGS

SMALL = {"n_prompts": 4, "n_fewshot": 1, "max_new_tokens": 16, "ratio": 0.5, "device": "cpu"}


def small(**changes):
    return make_config(SMALL | changes)


def test_a_cell_is_written_whole_and_read_back(output, embedded):
    result = cell.run_cell(small(), embedded)
    assert result.path == output / "data/results/scratch/streaming_llm/smollm2-135m_0.5_4p.json"
    read = read_cell(result.path)
    assert read.data == json.loads(json.dumps(result.data)) and len(read.records) == 4
    signals = read.signals()
    assert set(SCALARS) < set(signals.columns) and len(signals) == sum(r["n_tokens"] for r in read.records)
    assert signals.groupby("prompt_index")["entropy_change"].first().notna().all()
    assert np.isnan(signals["entropy_change"][signals["step"] == 0]).all()
    assert all(len(row) == 20 for row in signals["top20_logprob"])
    assert [p.name for p in result.path.parent.iterdir() if p.suffix not in (".json", ".parquet")] == []
    assert [c.label for c in read_experiment("scratch")] == ["streaming_llm 0.5"]


def test_a_finished_cell_is_not_run_again(output, embedded, monkeypatch):
    first = cell.run_cell(small(), embedded)
    monkeypatch.setattr(cell, "load_for", lambda config: pytest.fail("the model was loaded for a finished cell"))
    assert cell.run_cell(small(batch_size=2)).data == first.data


def test_another_configuration_never_overwrites(output, embedded):
    path = cell.run_cell(small(), embedded).path
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"already holds .* \(max_new_tokens 16 → 8\); choose another experiment name"):
        cell.run_cell(small(max_new_tokens=8), embedded)
    assert path.read_bytes() == before


def test_results_of_another_schema_or_broken_ones_are_named(output, embedded):
    path = cell.run_cell(small(), embedded).path
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"schema_version": 99}))
    with pytest.raises(InputError, match="has schema version 99; this version reads 2"):
        find_finished(small())
    path.write_text(path.read_text()[:100])
    with pytest.raises(InputError, match="is no readable cell result"):
        find_finished(small())
    path.write_text(json.dumps(data))
    signals = path.with_suffix(".parquet")
    signals.write_bytes(signals.read_bytes()[:200])
    with pytest.raises(InputError, match="signals file .* cannot be read"):
        read_cell(path).signals()


def test_an_interrupted_cell_goes_on_and_repeats_no_finished_prompt(output, embedded, monkeypatch):
    whole = cell.run_cell(small(experiment="whole"), embedded)
    config, generated = small(batch_size=2), []
    real = generation.generate

    def interrupted(lm, prompts, *args, **kwargs):
        generated.append(len(prompts))
        for count, run in enumerate(real(lm, prompts, *args, **kwargs)):
            if len(generated) == 1 and count == 2:
                raise KeyboardInterrupt
            yield run

    monkeypatch.setattr(cell, "generate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cell.run_cell(config, embedded)
    assert not cell_path(config).exists() and len(list(Checkpoint(config).load())) == 2
    resumed = cell.run_cell(config, embedded)
    assert generated == [4, 2]
    resumed.data["config"]["experiment"], resumed.data["config"]["batch_size"] = "whole", "auto"
    assert (resumed.data["machine"].pop("batch_size"), whole.data["machine"].pop("batch_size") > 2) == (2, True)
    assert_same(resumed, whole)
    assert not Checkpoint(config).folder.exists()


RUN = "from kvhelpers.cell import run_cell; from kvhelpers.config import make_config; run_cell(make_config({!r}))"


def test_kill_9_in_the_middle_changes_nothing(output, embedded):
    """A process is killed once some prompts are finished; a second one ends with an undisturbed run's results."""
    values = SMALL | {"press": "streaming_llm", "ratio": 0.75, "n_prompts": 8, "batch_size": 2}
    undisturbed = cell.run_cell(make_config(values | {"experiment": "undisturbed"}), embedded)
    config = make_config(values | {"experiment": "killed"})
    process = subprocess.Popen([sys.executable, "-c", RUN.format(config.model_dump())], env=dict(os.environ))
    folder = Checkpoint(config).folder
    deadline = time.monotonic() + 120
    while len(finished := sorted(folder.glob("[0-9]*.parquet"))) < 2 and time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not cell_path(config).exists()
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("[0-9]*.parquet")}
    assert 2 <= len(finished) <= len(stamps) < 8
    kept = shutil.copytree(folder, output / "kept")
    resumed = cell.run_cell(config, embedded)
    resumed.data["config"]["experiment"] = "undisturbed"
    assert_same(resumed, undisturbed)
    for path in kept.glob("[0-9]*.parquet"):  # the finished prompts' own records are in the result, times included
        record = json.loads(pq.read_schema(path).metadata[b"record"])
        assert record in resumed.records


def test_a_budget_above_the_prompt_is_refused_before_anything_is_written(output, embedded):
    with pytest.raises(InputError, match="budget 4000 is above the prompt's"):
        cell.run_cell(small(ratio=None, budget=4000), embedded)
    assert list(output.iterdir()) == []


def test_failed_prompts_stay_in_the_denominator(output, embedded):
    result = cell.run_cell(small(press="snapkv", press_kwargs={"window_size": 1000}), embedded)
    assert result.summary["accuracy"] | {"low": 0, "high": 0} == {"count": 0, "n": 4, "rate": 0, "low": 0, "high": 0}
    assert result.summary["stop_reasons"] == {"error": 4} and result.summary["kept_tokens"] is None
    assert result.summary["flags"] == {"run_failed": 4, "prompt_within_window": 4}
    assert result.summary["cfr"]["count"] == 4


def test_a_window_that_does_not_fit_is_flagged_in_results_table_and_log(output, embedded):
    result = cell.run_cell(small(press="snapkv", ratio=0.875), embedded)
    assert result.summary["flags"] == {"kept_within_window": 4, "sink_evicted": 4}
    assert "kept_within_window 4/4" in results_table([result])["Flags"][0]
    log = write_log("scratch").read_text()
    assert "in so many runs: `snapkv 0.875` 4/4" in log and "Not valid as evidence about `snapkv`" not in log
    cell.run_cell(small(press="none", ratio=0), embedded)
    assert "Not valid as evidence about `snapkv`" in write_log("scratch").read_text()


def test_cells_of_an_experiment_differ_in_their_press_only(output, embedded):
    cell.run_cell(small(), embedded)
    with pytest.raises(InputError, match=r"already holds .* \(seed 42 → 1\)"):
        cell.run_cell(small(press="knorm", seed=1), embedded)
    with pytest.raises(InputError, match="n_prompts 4 → 3"):
        cell.run_cell(small(n_prompts=3), embedded)


def test_every_knob_reaches_the_generation(output, embedded, monkeypatch):
    seen = {}

    def spy(lm, prompts, press_for, **knobs):
        seen.update(knobs, prompt=prompts[0], press=press_for(len(prompts[0])))
        return iter(())

    monkeypatch.setattr(cell, "generate", spy)
    config = small(repetition_penalty=1.2, timeout_s=9.0, batch_size=3, multiturn=False, press_kwargs={"n_sink": 2})
    prompts = cell.cell_prompts(config, embedded)
    list(cell.generate_prompts(config, embedded, prompts, cell.rows_together(config, embedded, prompts)))
    assert (seen["repetition_penalty"], seen["timeout_s"], seen["batch_size"], seen["max_new_tokens"]) == (1.2, 9.0, 3, 16)
    assert seen["stop_strings"] == STOP_STRINGS and len(set(seen["seeds"])) == 4
    assert (seen["press"].n_sink, seen["press"].compression_ratio) == (2, 0.5)
    assert [message["role"] for message in prompts[0].messages] == ["user"]


def test_failed_prompts_are_tried_again_on_resume(output, embedded):
    config = small()
    Checkpoint(config).save({"prompt_index": 0, "n_tokens": 0, "stop_reason": "error"}, {})
    result = cell.run_cell(config, embedded)
    assert "error" not in result.summary["stop_reasons"] and len(result.records) == 4


def test_a_looping_record_says_where_its_text_begins_to_loop(output, embedded):
    result = cell.run_cell(small(press="snapkv", ratio=0.875, max_new_tokens=80), embedded)
    looping = [record for record in result.records if record["failures"]["looping"]]
    assert looping
    for record in looping:
        assert 0 <= record["loop_onset_char"] < len(record["text"])


def test_uncompressed_answer_is_the_none_cell_s(output, embedded):
    bare = cell.run_cell(make_config(SMALL | {"press": "none", "ratio": 0}), embedded)
    assert cell.uncompressed_answer(small(), 2) == bare.records[2]["text"]


def test_a_half_written_temporary_file_does_not_block_the_experiment(output, embedded):
    path = cell_path(small())
    path.parent.mkdir(parents=True)
    path.with_name(f".999-{path.name}").write_text('{"half')
    assert find_finished(small()) is None
    assert cell.run_cell(small(), embedded).path == path
    assert [c.path for c in read_experiment("scratch")] == [path]
