"""What a log says about how its numbers were made, gathered from all conditions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvhelpers.experiment.results import ConditionResult
from kvhelpers.records import Machine, Provenance
from kvhelpers.stats import ENOUGH_PROMPTS, RESAMPLES

VARYING = {"load": None, "torch_threads": None}  # from condition to condition, on one machine


@dataclass(frozen=True)
class Setup:
    """How an experiment's conditions were run; of what differs between them, all values in their order.

    ``codes`` are (commit, whether the package was clean) pairs, ``batch_sizes`` the smallest and largest
    number of rows that decoded together, ``seconds`` the time of all prompts, summed over workers,
    ``eager`` the presses whose prefill has eager attention, ``commands`` what ran the conditions, ``ignored``
    the settings of the model's generation config that no run followed. None, or nothing, is what was not
    noted.
    """

    codes: tuple[tuple[str, bool | None], ...]
    machines: tuple[Machine, ...]
    threads: tuple[int, ...]
    load: float | None
    versions: tuple[dict[str, str], ...]
    model_source: str
    batch_sizes: tuple[int, int] | None
    seconds: float
    finished: tuple[str, str]
    eager: tuple[str, ...]
    commands: tuple[str, ...]
    ignored: dict[str, Any]
    resamples: int = RESAMPLES
    enough_prompts: int = ENOUGH_PROMPTS


def make_setup(results: Sequence[ConditionResult]) -> Setup:
    """Gather how these conditions were run."""
    made = [result.provenance for result in results]
    sizes = [record.batch_size for result in results for record in result.records if record.batch_size]
    loads = [one.machine.load for one in made if one.machine.load is not None]
    days = sorted(result.finished[:10] for result in results)
    return Setup(
        codes=tuple(_distinct(code for one in made for code in _codes(one))),
        machines=tuple(_distinct(one.machine.model_copy(update=VARYING) for one in made)),
        threads=tuple(sorted({one.machine.torch_threads for one in made} - {None})),
        load=max(loads, default=None),
        versions=tuple(_distinct((one.versions for one in made), key=_items)),
        model_source=without_home(results[0].identity["model_source"]),
        batch_sizes=(min(sizes), max(sizes)) if sizes else None,
        seconds=sum(result.seconds for result in results),
        finished=(days[0], days[-1]),
        eager=tuple(_distinct(one.condition.press for one in results if one.attn == "eager")),
        commands=tuple(_distinct(without_home(one.command) for one in made if one.command)),
        ignored={key: value for one in made for key, value in one.ignored_generation_config.items()},
    )


def _codes(made: Provenance) -> Iterator[tuple[str, bool | None]]:
    """The commits at which a condition ran, and whether each was clean, as far as that is known."""
    yield from ((commit, made.clean) for commit in made.earlier_commits)
    if made.commit:
        yield made.commit, made.clean


def _distinct(values: Iterable[Any], key: Callable[[Any], Any] = lambda value: value) -> list[Any]:
    return list({key(value): value for value in values}.values())


def _items(versions: dict[str, str]) -> str:
    return str(sorted(versions.items()))


def without_home(path: str) -> str:
    """A path that does not name the user."""
    return path.replace(str(Path.home()), "~")
