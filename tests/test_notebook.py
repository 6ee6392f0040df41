"""Parameters that papermill injects are checked, and only those of parameters cells; results are read with a
word of where from; intervals for plots.
"""

import math

import pandas as pd
import pytest

from kvhelpers.errors import InputError
from kvhelpers.experiment.condition import Condition, make_condition
from kvhelpers.notebook import (
    WRITE_LOG,
    assigned_names,
    condition_from_parameters,
    read_results,
)
from kvhelpers.paths import find_results
from kvhelpers.plots import wilson_ends


def test_only_parameters_cells_are_checked():
    defaults = Condition().model_dump() | {WRITE_LOG: True}
    own = "# Parameters\n" + "\n".join(f"{name} = {value!r}" for name, value in defaults.items())
    injected = "# Parameters\nratio = 0.5"
    names = defaults | {"ratio": 0.5, "anything": 3}
    condition = condition_from_parameters(
        {"In": ["", own, injected, "check", "anything = 3", "check"], **names}
    )
    assert condition == make_condition({"ratio": 0.5})
    with pytest.raises(InputError, match="parameter 'ratoi' is unknown; did you mean 'ratio'"):
        condition_from_parameters({"In": [own, "# Parameters\nratoi = 0.9"], "ratoi": 0.9, **names})
    assert condition_from_parameters({"In": [""], **names}) == condition
    with pytest.raises(InputError, match="parameter 'seed' is missing"):
        condition_from_parameters(
            {"In": [own], **{name: value for name, value in names.items() if name != "seed"}}
        )
    with pytest.raises(InputError, match="write_log 'no' is not allowed; it is True or False"):
        condition_from_parameters({"In": [own], **names, WRITE_LOG: "no"})
    misspelt = own.replace("ratio =", "ratoi =")
    with pytest.raises(InputError, match="parameter 'ratoi' is unknown"):
        condition_from_parameters({"In": [own, misspelt], "ratoi": 0.9, **names})
    mended = condition_from_parameters({"In": [misspelt, "check", own, "check"], **names})
    assert mended == condition_from_parameters({"In": [misspelt, own, "check"], **names}) == condition
    assert assigned_names("a = 1\nb: int = 2\nprint(a)") == ["a", "b"]


def test_a_name_that_papermill_read_as_a_number_is_refused_with_the_way_out():
    values = Condition().model_dump() | {WRITE_LOG: True, "experiment": 1}
    with pytest.raises(InputError, match="experiment 1 .* came as a number.* by -r experiment TEXT"):
        condition_from_parameters({"In": ["# Parameters\nexperiment = 1"], **values})
    with pytest.raises(InputError, match="experiment 2 .* came as a number"):
        find_results(2)
    with pytest.raises(InputError, match="results_dir 3 .* came as a number"):
        find_results("002-compression-sweep", 3)


def test_reading_says_how_much_from_where(output, capsys):
    name = "002-compression-sweep"
    results = read_results(name, find_results(name))
    assert capsys.readouterr().out == f"read {len(results)} conditions of {name} from data/samples\n"
    own = output / "data/results" / name / "none"
    own.mkdir(parents=True)
    (own / results[0].path.name).write_bytes(results[0].path.read_bytes())
    assert [result.label for result in read_results(name, find_results(name))] == ["none"]
    assert capsys.readouterr().out == f"read 1 condition of {name} from data/results\n"


@pytest.mark.parametrize(("count", "n"), [(0, 20), (1, 20), (13, 20), (50, 50)])
def test_ends_are_those_of_wilson_s_formula(count, n):
    z, share = 1.959963984540054, count / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    outcomes = pd.Series([True] * count + [False] * (n - count))
    assert wilson_ends(outcomes) == pytest.approx((middle - half, middle + half), abs=1e-12)
