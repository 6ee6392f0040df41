from factories import change_records, make_result

from kvhelpers.report.excerpt import LENGTH, make_excerpt
from kvhelpers.report.render import block


def test_a_looping_excerpt_shows_the_loop():
    result = make_result("knorm", 0.5, [False] * 6, {0: 4}, text="x" * 1000 + "loop " * 300)
    result = change_records(result, loop_onset_char=1000)
    shown = make_excerpt(result, result.records[0])
    assert shown.text.startswith("[…] " + "x" * (LENGTH // 2) + "⟦loop⟧loop loop")
    assert shown.text.endswith(" […]") and len(shown.text) == LENGTH + len("[…]  […]")
    text = block("common", "excerpt", shown=shown)
    assert text.startswith(
        "`knorm 0.5`, prompt p/0, right answer 1, 30 tokens, stop reason `max_new_tokens`; the"
    )
    assert text.endswith(f":\n\n```text\n{shown.text}\n```")


def test_another_one_shows_the_beginning():
    long, short = (make_result("knorm", 0.5, [True], text=text) for text in ("y" * 1000, "yes"))
    assert make_excerpt(long, long.records[0]).text == "y" * LENGTH + " […]"
    shown = make_excerpt(short, short.records[0])
    assert shown.text == "yes" and "⟦loop⟧" not in block("common", "excerpt", shown=shown)
