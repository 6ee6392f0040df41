from kvhelpers.report.figures.labels import pieces, shortened


def test_a_label_is_its_amount_and_its_fields():
    label = "with_sink 0.5 (snapkv (window_size=4, layers=[0, 1]), n_sink=4)"
    assert pieces(label) == ["with_sink 0.5", "snapkv", "window_size=4", "layers=[0, 1]", "n_sink=4"]
    assert pieces("") == []


def test_what_all_have_in_common_is_said_once():
    texts = ["streaming_llm, interval=8, target=64", "tova, interval=8, target=64"]
    assert shortened(texts) == ("interval=8, target=64", ["streaming_llm", "tova"])
    assert shortened(["", "window_size=8"]) == ("", ["", "window_size=8"])
    assert shortened(["window_size=8"]) == ("window_size=8", [""])


def test_labels_that_would_become_the_same_stay_as_they_are():
    texts = ["a (b (x=1), y=2)", "a (b, x=1, y=2)"]
    assert shortened(texts) == ("", texts)
