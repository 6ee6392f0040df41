import re

from kvhelpers.paths import REPOSITORY
from kvhelpers.scoring.flags import FLAGS, INVALIDATING, baseline_is_weak


def test_weak_baseline_is_where_mcnemar_cannot_reach_significance():
    assert [baseline_is_weak(k) for k in (0, 5, 6, 20)] == [True, True, False, False]


def test_every_flag_is_in_the_table_of_the_readme_and_no_other():
    rows = re.findall(r"^\| (`.*?`) \|", (REPOSITORY / "README.md").read_text(), re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert listed >= set(FLAGS) >= set(INVALIDATING)
