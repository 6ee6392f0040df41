"""The parameters that papermill injects are checked, and only those of parameters cells."""

import pytest

from kvhelpers.errors import InputError
from kvhelpers.experiment.condition import Condition, make_condition
from kvhelpers.notebook import WRITE_LOG, assigned_names, condition_from_parameters


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
