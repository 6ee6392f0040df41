"""The data set card: ``datasets.load_dataset`` opens what it names, with the features that it says."""

import re

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import Features, disable_progress_bars, load_dataset

from kvhelpers.experiment.results import read_result
from kvhelpers.paths import samples_dir
from kvhelpers.records import Record

CARD = (samples_dir() / "README.md").read_text(encoding="utf-8")
HEADER = yaml.safe_load(CARD.split("---\n")[1])
FILES = {config["config_name"]: config["data_files"] for config in HEADER["configs"]}
KEYS = ["experiment", "condition", "prompt_index"]
MOST = 44 * 2**20  # bytes that a clone carries for the samples


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Each config by its name, as the hub's users open it."""
    disable_progress_bars()
    folder = str(tmp_path_factory.mktemp("cache"))
    return {name: load_dataset(str(samples_dir()), name, split="train", cache_dir=folder) for name in FILES}


def rows(files):
    return sum(pq.ParquetFile(file).metadata.num_rows for file in files)


@pytest.mark.parametrize("name", FILES)
def test_a_config_opens_by_its_name_with_all_its_rows(opened, name):
    files = list(samples_dir().glob(FILES[name]))
    assert opened[name].num_rows == rows(files) > 0
    (declared,) = (info["features"] for info in HEADER["dataset_info"] if info["config_name"] == name)
    for file in files:
        assert Features.from_arrow_schema(pq.read_schema(file)) == opened[name].features, file
    assert Features._from_yaml_list(declared) == opened[name].features


def test_the_configs_hold_every_parquet_file_once():
    files = [file for pattern in FILES.values() for file in samples_dir().glob(pattern)]
    assert sorted(files) == sorted(samples_dir().rglob("*.parquet"))


def test_every_row_names_its_condition_and_the_configs_join(opened):
    runs = opened["runs"].to_pandas()
    conditions = [column for column in runs if column in opened["tokens"].features and column not in KEYS]
    assert {"press", "ratio", "budget", "press_kwargs", "setting", "model", "task"} == set(conditions)
    assert not runs.duplicated(KEYS).any()
    records = opened["records"].to_pandas()
    tokens = opened["tokens"].select_columns([*KEYS, *conditions]).to_pandas().groupby(KEYS)
    for counted in (records.set_index(KEYS)["n_tokens"], tokens.size()):
        both = runs.set_index(KEYS)["tokens"].to_frame().join(counted.rename("counted")).fillna(0)
        assert len(both) == len(runs) and (both["tokens"] == both["counted"]).all()
    ends = tokens[conditions].first().join(runs.set_index(KEYS)[conditions], rsuffix="_of_run")
    for column in conditions:
        pd.testing.assert_series_equal(ends[column], ends[f"{column}_of_run"], check_names=False)


def test_records_are_those_of_the_json_files(opened):
    table = opened["records"].filter(lambda row: row["experiment"] == "004-budgets-and-decoding")
    by_key = {(row["condition"], row["prompt_index"]): Record.model_validate(row) for row in table}
    paths = sorted((samples_dir() / "004-budgets-and-decoding").glob("*/*.json"))
    results = [read_result(path) for path in paths]
    assert by_key == {(r.label, record.prompt_index): record for r in results for record in r.records}


def test_the_card_tells_the_size():
    told = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| ([\d,]+) \|", CARD, re.MULTILINE))
    counts = {name: rows(samples_dir().glob(pattern)) for name, pattern in FILES.items()}
    assert {name: int(count.replace(",", "")) for name, count in told.items()} == counts
    assert HEADER["size_categories"] == ["1M<n<10M"] and 10**6 < max(counts.values()) < 10**7
    assert sum(path.stat().st_size for path in samples_dir().rglob("*") if path.is_file()) < MOST
