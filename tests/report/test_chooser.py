"""The chooser over conditions: widgets that are linked in the browser, and the same without widgets."""

import re

import ipywidgets
import pytest
from factories import make_result, make_sweep
from ipywidgets.embed import dependency_state

from kvhelpers.errors import InputError
from kvhelpers.report.chooser import RunChooser

VIEW = "application/vnd.jupyter.widget-view+json"


def parts(widget):
    """A switch's menu and what it switches."""
    menu, stack = widget.children
    assert isinstance(menu, ipywidgets.Dropdown) and isinstance(stack, ipywidgets.Stack)
    return menu, stack


def test_each_condition_stands_under_its_press_and_amount():
    results = make_sweep()
    menu, presses = parts(RunChooser(results).widget())
    assert menu.options == ("none", "knorm", "tova")
    chosen = {}
    for press, switch in zip(menu.options, presses.children, strict=True):
        amounts, pages = parts(switch)
        chosen |= {
            (press, amount): page.value for amount, page in zip(amounts.options, pages.children, strict=True)
        }
    assert list(chosen) == [("none", "0"), ("knorm", "0.25"), ("knorm", "0.5"), ("tova", "0.5")]
    for (press, amount), page in chosen.items():
        label = press if press == "none" else f"{press} {amount}"
        assert f"`{label}`" in page and page.count("<script") == 0


def test_menus_are_linked_in_the_browser_and_open_at_the_instructive_run():
    widget = RunChooser(make_sweep()).widget()
    menu, presses = parts(widget)
    amounts, pages = parts(presses.children[menu.index])
    assert (menu.value, amounts.value) == ("knorm", "0.5")  # where runs loop
    assert presses.selected_index == menu.index and pages.selected_index == amounts.index
    switches = [widget, *presses.children]
    saved = dependency_state([widget]).values()  # what a saved notebook needs
    links = [model["state"] for model in saved if model["model_name"] == "LinkModel"]
    wanted = [tuple(f"IPY_MODEL_{part.model_id}" for part in parts(switch)) for switch in switches]
    for link in links:
        (menu_id, index), (stack_id, selected) = link["source"], link["target"]
        assert (index, selected) == ("index", "selected_index")
        wanted.remove((menu_id, stack_id))
    assert wanted == []


def test_without_widgets_there_is_the_same_in_plain_html():
    results = [
        *make_sweep(),
        make_result("snapkv", 0.5, [False], text="<script>", press_kwargs={"window_size": 8}),
    ]
    bundle = RunChooser(results)._repr_mimebundle_()
    html = bundle["text/html"]
    assert VIEW in bundle and "<script" not in html and "&lt;script&gt;" in html
    summaries = re.findall("<summary>(.*?)</summary>", html)
    assert summaries == ["none", "0", "knorm", "0.25", "0.5", "tova", "0.5", "snapkv", "0.5 (window_size=8)"]
    assert html.count(" open>") == 2
    assert bundle["text/plain"].count("\n") == len(results) - 1


def test_no_condition_is_refused():
    with pytest.raises(InputError, match="results are empty"):
        RunChooser([])
