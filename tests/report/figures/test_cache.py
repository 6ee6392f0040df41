import numpy as np
from factories import change_records, make_result, make_sweep

from kvhelpers.records import Compression
from kvhelpers.report import figures
from kvhelpers.report.figures.cache import cached_tokens


def cut(target, press="DecodingPress", base="tova", ratio=0.0, flags=(), **fields):
    """Two runs whose caches are cut to the target at every eighth token; the second run is shorter."""
    kwargs = {"base_press": {"name": base}, "compression_interval": 8, "target_size": target}
    result = make_result(
        press, ratio, [True] * 2, entropy={1: [0.5] * 10}, press_kwargs=kwargs, flags=flags, **fields
    )
    kept = round(100 * (1 - ratio))

    def cuts(record):
        steps = range(8, record.n_tokens, 8)
        return tuple(
            Compression(step=s, before=kept + 8 if s == 8 else target + 8, after=target) for s in steps
        )

    return change_records(result, compressions=cuts)


def lines(axes):
    return [line for line in axes.lines if len(line.get_xdata())]


def test_the_cache_over_time_grows_and_is_cut(assert_whole):
    result = cut(60)
    sizes = cached_tokens(result.records[0])
    assert list(sizes[[0, 7, 8, 15, 16, 29]]) == [100, 107, 60, 67, 60, 65]
    figure = figures.cache_over_time([result])
    (line,) = lines(figure.axes[0])
    np.testing.assert_array_equal(line.get_ydata(), sizes)  # of two equal runs, one of them shorter
    assert figures.cache_over_time(make_sweep()) is None
    assert_whole(figure)


def test_a_panel_per_press_and_a_line_per_target(assert_whole):
    results = [cut(target, base=base) for base in ("streaming_llm", "tova") for target in (90, 60, 30)]
    results += [cut(60, base="knorm")]
    results += [
        cut(30, "PrefillDecodingPress", ratio=ratio, budget=round(100 * (1 - ratio))) for ratio in (0.4, 0.7)
    ]
    figure = figures.cache_over_time(results)
    assert [" ".join(axes.get_title().split()) for axes in figure.axes] == [
        "DecodingPress (streaming_llm)",
        "DecodingPress (tova)",
        "DecodingPress (knorm)",
        "PrefillDecodingPress (tova)",
    ]
    assert [len(lines(axes)) for axes in figure.axes] == [3, 3, 1, 2]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "target_size=90",
        "target_size=60",
        "target_size=30",
        "budget 60, target_size=30",
        "budget 30, target_size=30",
    ]
    for axes in figure.axes:
        look = [(line.get_color(), line.get_marker()) for line in lines(axes)]
        assert len(set(look)) == len(look)  # every line can be told from the others, by its marker alone too
        assert len({marker for _, marker in look}) == len(look)
    same = [lines(figure.axes[0])[1], lines(figure.axes[1])[1], lines(figure.axes[2])[0]]
    assert len({line.get_color() for line in same}) == 1  # and one look means one target
    assert_whole(figure)


def test_a_condition_that_is_not_valid_is_marked():
    figure = figures.cache_over_time([cut(60), cut(30, flags=["kept_within_window"])])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "target_size=60",
        "target_size=30 †",
        "not valid, see its flags",
    ]


def test_no_more_than_twelve_panels(assert_whole):
    results = [cut(60, "PrefillDecodingPress", base=f"a_press_with_name_{number}") for number in range(14)]
    figure = figures.cache_over_time(results)
    titles = [" ".join(axes.get_title().split()) for axes in figure.axes]
    assert titles == [f"PrefillDecodingPress (a_press_with_name_{number})" for number in range(12)]
    assert_whole(figure)
