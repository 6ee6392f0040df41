"""Two runs of the same cell must say the same: tokens and outcomes exactly, signals to 1e-4; times and threads aside."""

import copy

import pandas as pd
import pytest

TIMES = ("seconds", "finished")


def without_times(data):
    data = copy.deepcopy(data)
    records = [{k: v for k, v in record.items() if k != "seconds"} for record in data["records"]]
    return {k: v for k, v in data.items() if k not in TIMES} | {"records": records}


def assert_same(first, second):
    first_data, second_data = without_times(first.data), without_times(second.data)
    for data in (first_data, second_data):
        data["machine"].pop("torch_threads")
    for name in ("mean_entropy", "max_entropy", "min_top1_prob"):
        assert first_data["summary"].pop(name) == pytest.approx(second_data["summary"].pop(name), abs=1e-4)
    assert first_data == second_data
    pd.testing.assert_frame_equal(first.signals(), second.signals(), rtol=0, atol=1e-4)
