"""The data set card: ``datasets.load_dataset`` opens what it names."""

import pandas as pd
from datasets import load_dataset

from kvhelpers.paths import samples_dir


def test_load_dataset_opens_the_runs(tmp_path):
    opened = load_dataset(str(samples_dir()), "runs", split="train", cache_dir=str(tmp_path)).to_pandas()
    files = sorted(samples_dir().glob("*/runs.parquet"))
    read = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
    keys = ["experiment", "signals_file", "prompt_index"]
    assert len(files) == opened["experiment"].nunique()
    assert not opened.duplicated(keys).any()
    both = [
        frame.set_index(keys).sort_index()[["correct", "looping", "mode", "tokens"]]
        for frame in (opened, read)
    ]
    pd.testing.assert_frame_equal(*both, check_dtype=False)
