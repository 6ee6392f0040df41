from kvhelpers.scoring.flags import baseline_is_weak


def test_weak_baseline_is_where_mcnemar_cannot_reach_significance():
    assert [baseline_is_weak(k) for k in (0, 5, 6, 20)] == [True, True, False, False]
