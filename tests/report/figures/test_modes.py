from factories import make_result, make_sweep

from kvhelpers import frames
from kvhelpers.analysis.analyse import analyse
from kvhelpers.records import FailureMode
from kvhelpers.report import figures
from kvhelpers.report.figures.modes import LOOKS

RIGHT, WRONG = [True] * 20, [False] * 20


def bars(axes):
    """The counts of each mode by the name of the bar, from what is drawn."""
    names = [" ".join(label.get_text().split()) for label in axes.get_yticklabels()]
    shares = {box.get_label(): [round(20 * bar.get_width()) for bar in box] for box in axes.containers}
    return {
        name: {mode: of[place] for mode, of in shares.items() if of[place]}
        for place, name in enumerate(names)
    }


def test_a_panel_per_press_with_the_uncompressed_runs_on_top(assert_whole):
    figure = figures.mode_bars(analyse(make_sweep()).runs)
    knorm, tova = figure.axes
    assert [axes.get_title() for axes in (knorm, tova)] == ["knorm (n = 20)", "tova (n = 20)"]
    assert bars(knorm) == {
        "none": {"correct": 20},
        "0.25": {"correct": 19, "instruction amnesia": 1},
        "0.5": {"looping": 20},
    }
    assert bars(tova) == {"none": {"correct": 20}, "0.5": {"correct": 20}}
    assert [text.get_text() for text in knorm.texts if text.get_text()] == ["20", "19", "20"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "correct",
        "instruction amnesia",
        "looping",
    ]
    assert_whole(figure)


def test_every_mode_has_its_own_look():
    assert list(LOOKS) == list(FailureMode)
    hatches = [hatch for _, hatch in LOOKS.values()]
    assert len(set(hatches)) == len(hatches)  # seen without colour


def test_uncompressed_runs_alone_have_a_panel(assert_whole):
    figure = figures.mode_bars(frames.runs([make_result("none", 0.0, RIGHT)]))
    (axes,) = figure.axes
    assert axes.get_title() == "none (n = 20)" and bars(axes) == {"none": {"correct": 20}}
    assert_whole(figure)


def test_many_conditions_fit_a_page(assert_whole):
    results = [make_result("none", 0.0, RIGHT)]
    for press, field in (("snapkv", "window_size"), ("tova", "window_size"), ("streaming_llm", "n_sink")):
        results += [
            make_result(
                press,
                ratio,
                WRONG,
                flags=["kept_within_window"] if (press, ratio, value) == ("snapkv", 0.875, 64) else [],
                press_kwargs={"press": {"name": "knorm"}, field: value},
            )
            for ratio in (0.5, 0.75, 0.875)
            for value in (4, 8, 16, 32, 64)
        ]
    figure = figures.mode_bars(frames.runs(results))
    assert figure.axes[0].get_title() == "snapkv (knorm) (n = 20)"
    assert list(bars(figure.axes[0]))[:3] == ["none", "0.5, window_size=4", "0.5, window_size=8"]
    marked = [name for axes in figure.axes for name in bars(axes) if "†" in name]
    assert marked == ["0.875, window_size=64 †"]
    assert figure.legends[0].get_texts()[-1].get_text() == "not valid, see its flags"
    assert_whole(figure)


def test_long_fields_are_not_cut(assert_whole):
    decoding = {"name": "DecodingPress", "compression_interval": 8, "target_size": 64}
    results = [
        make_result("PrefillDecodingPress", 0.5, RIGHT, budget=budget, press_kwargs=kwargs)
        for budget in (128, 64)
        for base in ("streaming_llm", "expected_attention")
        for kwargs in [
            {"prefilling_press": {"name": base}, "decoding_press": decoding | {"base_press": {"name": base}}}
        ]
    ]
    results += [
        make_result(
            "DecodingPress", 0.0, RIGHT, press_kwargs={"base_press": {"name": base}, "target_size": size}
        )
        for base in ("streaming_llm", "expected_attention")
        for size in (64, 128)
    ]
    figure = figures.mode_bars(frames.runs(results))
    title = " ".join(figure.axes[0].get_title().split())
    assert title == "PrefillDecodingPress (DecodingPress, compression_interval=8, target_size=64) (n = 20)"
    assert list(bars(figure.axes[0]))[:2] == ["budget 128, streaming_llm", "budget 128, expected_attention"]
    assert next(iter(bars(figure.axes[1]))) == "streaming_llm, target_size=64"
    assert_whole(figure)


def test_different_numbers_of_runs_are_in_the_labels():
    results = [make_result("none", 0.0, RIGHT), make_result("knorm", 0.5, RIGHT[:10])]
    (axes,) = figures.mode_bars(frames.runs(results)).axes
    assert list(bars(axes)) == ["none (n = 20)", "0.5 (n = 10)"] and axes.get_title() == "knorm"
