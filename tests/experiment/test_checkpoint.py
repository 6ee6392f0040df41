"""What a killed condition left is believed only if name, record, condition and prompt agree."""

import re
import shutil

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from kvhelpers.errors import InputError
from kvhelpers.experiment.checkpoint import Checkpoint
from kvhelpers.experiment.condition import make_condition
from kvhelpers.experiment.run import finish_condition, run_condition, run_prompts

VALUES = {
    "task": "onestep",
    "n_prompts": 4,
    "n_fewshot": 1,
    "max_new_tokens": 6,
    "device": "cpu",
    "batch_size": 4,
}


@pytest.fixture
def saved(output, stand_in):
    """A condition with three of its four prompts saved, and the folder that holds them."""
    condition = make_condition(VALUES)
    for _ in run_prompts(condition, stand_in, [0, 1, 2]):
        pass
    return condition, Checkpoint(condition).folder


def resumed(condition, stand_in):
    """The prompts of the result of a resumed run, and which of them it ran again."""

    def files():
        """Each file's time of writing: a new file may get the number of an old one that is gone."""
        return {
            path.name: path.stat().st_mtime_ns for path in Checkpoint(condition).folder.glob("0*.parquet")
        }

    before = files()
    list(run_prompts(condition, stand_in))
    after = files()
    again = [int(name[:5]) for name in sorted(after) if before.get(name) != after[name]]
    return [record.prompt_index for record in finish_condition(condition).records], again


def copied_over(folder):
    shutil.copy(folder / "00000.parquet", folder / "00002.parquet")
    return [2]


def swapped(folder):
    (folder / "00000.parquet").rename(folder / "x")
    (folder / "00001.parquet").rename(folder / "00000.parquet")
    (folder / "x").rename(folder / "00001.parquet")
    return [0, 1]


def of_no_length(folder):
    (folder / "00001.parquet").write_bytes(b"")
    return [1]


def truncated(folder):
    path = folder / "00001.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    return [1]


def without_rows(folder):
    path = folder / "00002.parquet"
    table = pq.read_table(path)
    pq.write_table(table[:2], path)
    return [2]


def of_another_condition(folder):
    path = folder / "00002.parquet"
    table = pq.read_table(path)
    metadata = {**table.schema.metadata, b"condition": b"0" * 64}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return [2]


def of_another_prompt(folder):
    path = folder / "00000.parquet"
    table = pq.read_table(path)
    record = table.schema.metadata[b"record"].replace(b"onestep/42/", b"onestep/9/")
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"record": record}), path)
    return [0]


def with_another_answer(folder):
    path = folder / "00000.parquet"
    table = pq.read_table(path)
    record = re.sub(rb'"reference":"[0-9]+"', b'"reference":"99"', table.schema.metadata[b"record"])
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"record": record}), path)
    return [0]


def with_other_entropies(folder):
    path = folder / "00001.parquet"
    table = pq.read_table(path)
    place, halved = table.column_names.index("entropy"), pc.divide(table["entropy"], pa.scalar(2.0, "float"))
    pq.write_table(table.set_column(place, "entropy", halved), path)
    return [1]


def without_a_column(folder):
    path = folder / "00001.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["entropy"]), path)
    return [1]


def in_another_precision(folder):
    path = folder / "00001.parquet"
    table = pq.read_table(path)
    place, wide = table.column_names.index("entropy"), table["entropy"].cast("double")
    pq.write_table(table.set_column(place, "entropy", wide), path)
    return [1]


@pytest.mark.parametrize(
    "spoil",
    [
        copied_over,
        swapped,
        of_no_length,
        truncated,
        without_rows,
        of_another_condition,
        of_another_prompt,
        with_another_answer,
        with_other_entropies,
        without_a_column,
        in_another_precision,
    ],
)
def test_a_checkpoint_that_is_not_its_prompt_s_is_named_and_run_again(saved, stand_in, spoil):
    condition, folder = saved
    spoiled = spoil(folder)
    with pytest.warns(
        UserWarning, match=rf"/0000{spoiled[0]}.parquet is damaged; prompt {spoiled[0]} is run again"
    ):
        prompts, again = resumed(condition, stand_in)
    assert prompts == [0, 1, 2, 3] and again == [*spoiled, *({3} - set(spoiled))]


def test_files_that_are_no_prompt_s_do_not_count(saved, stand_in):
    condition, folder = saved
    for name in ("1x.parquet", "00009.parquet", "1.parquet"):
        shutil.copy(folder / "00000.parquet", folder / name)
    assert Checkpoint(condition).finished() == {0, 1, 2}
    assert resumed(condition, stand_in) == ([0, 1, 2, 3], [3])


def test_a_condition_is_not_finished_with_a_damaged_prompt(saved, stand_in):
    condition, folder = saved
    list(run_prompts(condition, stand_in, [3]))
    of_no_length(folder)
    with pytest.raises(InputError, match=r"00001.parquet is damaged \(.*\); run the condition again"):
        finish_condition(condition)
    with pytest.warns(UserWarning, match="00001.parquet is damaged"):
        assert len(run_condition(condition, stand_in).records) == 4


def test_a_disk_that_fails_costs_no_finished_prompt(saved, monkeypatch):
    condition, folder = saved

    def failing(path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("kvhelpers.experiment.checkpoint.pq.read_table", failing)
    with pytest.raises(OSError, match="Input/output error"):
        Checkpoint(condition).forget_damaged()
    assert len(list(folder.glob("*.parquet"))) == 3


def test_a_checkpoint_has_each_of_its_tokens_once(saved):
    condition, folder = saved
    path = folder / "00001.parquet"
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table[:-1], table[:1]]), path)
    with pytest.warns(UserWarning, match=r"its \d+ tokens are not the record's \d+, each once"):
        assert set(Checkpoint(condition).forget_damaged()) == {0, 2}
