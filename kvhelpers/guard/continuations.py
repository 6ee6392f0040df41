"""Take up finished runs where they were at some token, and let them go on from another cache.

That is what an action does to a run while it goes on: in float32 the tokens up to there are the run's own,
and the rest is what `generation` makes of prompt and output under the action's press. Each continuation is
saved when it ends; a killed call goes on with those that are missing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from kvpress import BasePress
from pydantic import Field
from tqdm import tqdm

from kvhelpers.errors import InputError
from kvhelpers.experiment.condition import Condition
from kvhelpers.experiment.identity import check_here
from kvhelpers.experiment.plain import plain_hash
from kvhelpers.experiment.run import (
    ended,
    judged,
    load_for,
    press_seed,
    prompts_of,
    refuse_other_prompts,
    rows_together,
    tags_of,
)
from kvhelpers.experiment.seal import sealed_text, unsealed
from kvhelpers.generation.generate import Generation, Request, Settings, generate
from kvhelpers.generation.watch import Action
from kvhelpers.guard.source import Source
from kvhelpers.models.load import LanguageModel
from kvhelpers.paths import relative, write_atomic
from kvhelpers.presses.registry import NONE
from kvhelpers.presses.restore_rows import RestoreRowsPress
from kvhelpers.presses.spec import PressSpec
from kvhelpers.records import Shape, StopReason
from kvhelpers.tasks.prompts import Prompt
from kvhelpers.tasks.thinking import opens_thoughts


class Rows(Shape):
    """So many evicted positions of the prompt that are brought back, and which (`presses.restore_rows`);
    ``other`` is the prompt whose queries choose, if they are another's.
    """

    count: int
    choose: str
    other: int | None = None


class Point(Shape):
    """A run of a condition, its first ``keep`` new tokens, and the press under which it goes on from there;
    ``none`` is the full cache. With ``rows`` the press acts on the prompt alone. Tokens of ``then`` are put
    behind those kept.
    """

    condition: str
    prompt_index: int
    keep: int
    press: str = NONE
    ratio: float = 0.0
    press_kwargs: dict[str, Any] = Field(default_factory=dict)
    rows: Rows | None = None
    then: tuple[int, ...] = ()

    @property
    def spec(self) -> PressSpec:
        return PressSpec(self.press, self.ratio, None, self.press_kwargs)


class Continuation(Shape):
    """How a run went on from a point.

    ``tokens`` counts all new tokens, ``token_ids`` are those after ``point.keep``, ``text`` is the whole
    answer, ``thinking_chars`` is `records.Record`'s. ``kept_tokens`` are in the cache after the action's
    prefill, of ``held_tokens`` before its press. ``wall_seconds`` is the time since the continuation before
    it ended.
    """

    point: Point
    token_ids: tuple[int, ...]
    text: str
    thinking_chars: int = 0
    tokens: int
    stop_reason: StopReason
    error: str | None
    correct: bool
    looping: bool
    kept_tokens: float | None
    held_tokens: int
    wall_seconds: float


class Store:
    """Continuations on disk, one file each; ``of`` is what tells a source's runs apart from all others."""

    def __init__(self, folder: Path, of: Mapping[str, str]):
        self.folder, self.of = folder, of

    def path(self, point: Point) -> Path:
        """Where a point's continuation lies."""
        key = {"run": self.of[point.condition], "point": json.loads(key_of(point))}
        return self.folder / f"{plain_hash(key)[:24]}.json"

    def read(self, point: Point) -> Continuation | None:
        """A point's continuation, if it is there and whole."""
        try:
            return Continuation.model_validate(unsealed(self.path(point).read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return None

    def write(self, continuation: Continuation) -> None:
        """Keep a continuation."""
        text = sealed_text(continuation.model_dump_json())
        write_atomic(self.path(continuation.point), lambda path: path.write_text(text, encoding="utf-8"))


class TakeUp:
    """Puts a run's tokens before the first one."""

    def __init__(self, action: Action):
        self.action = action

    def look(self, tokens: Sequence[int], signals: Mapping[str, float] | None) -> Action | None:
        return None if tokens else self.action


def continue_runs(
    source: Source, points: Iterable[Point], folder: Path, load: Callable[[], LanguageModel] | None = None
) -> dict[str, Continuation]:
    """The continuations of some points of a source's runs, by `key_of`; those that are not in ``folder``
    are generated. ``load`` gives the model.

    Raises
    ------
    InputError : the model or the prompts are not those of the source.
    """
    points = list({key_of(point): point for point in points}.values())
    store = Store(folder, {label: result.condition_hash for label, result in source.every.items()})
    there = {key_of(point): store.read(point) for point in points}
    missing = [point for point in points if there[key_of(point)] is None]
    if missing:
        base = check_here(source.baseline.condition)
        lm = load() if load else load_for(base)
        prompts = _prompts(source, base, lm)
        tokens = {label: source.tokens(label) for label in {point.condition for point in missing}}
        done = len(points) - len(missing)
        with tqdm(total=len(points), initial=done, desc=source.experiment, unit="run") as bar:
            for attention in dict.fromkeys(point.spec.attention() for point in missing):
                part = [point for point in missing if point.spec.attention() == attention]
                generating = lm.attending("eager" if attention == "eager" else "auto")
                for continuation in _generate(base, generating, prompts, tokens, part):
                    store.write(continuation)
                    there[key_of(continuation.point)] = continuation
                    bar.update()
    return {key_of(point): there[key_of(point)] for point in points}


def key_of(point: Point) -> str:
    """What a point's continuation is found by."""
    return point.model_dump_json(exclude={name for name in ("rows", "then") if not getattr(point, name)})


def _prompts(source: Source, base: Condition, lm: LanguageModel) -> list[Prompt]:
    there = source.baseline.identity["model_source"]
    if lm.source != there:
        raise InputError(
            f"model {base.model!r} is {lm.source!r} here, and was {there!r} in experiment "
            f"{source.experiment!r}"
        )
    prompts = prompts_of(base, lm)
    for prompt, record in zip(prompts, source.baseline.records, strict=True):
        if (prompt.id, len(prompt.token_ids)) != (record.prompt_id, record.prompt_tokens):
            raise InputError(
                f"prompt {prompt.id} of {len(prompt.token_ids)} tokens is not the one that experiment "
                f"{source.experiment!r} ran, {record.prompt_id} of {record.prompt_tokens}"
            )
    refuse_other_prompts(source.baseline.records, prompts, relative(source.baseline.path))
    return prompts


def _generate(
    base: Condition,
    lm: LanguageModel,
    prompts: Sequence[Prompt],
    tokens: Mapping[str, Mapping[int, Sequence[int]]],
    points: Sequence[Point],
) -> Iterator[Continuation]:
    requests, tags = [], tags_of(base, lm)
    for point in points:
        prompt = prompts[point.prompt_index]
        given = (*tokens[point.condition][point.prompt_index][: point.keep], *point.then)
        press = _press(point, prompts, len(given))
        watch = partial(TakeUp, Action("take up", 0, press, given))
        seed, thinking = press_seed(base.seed, prompt.id), opens_thoughts(prompt.opening, tags)
        requests.append(Request(prompt.token_ids, None, seed, watch, thinking))
    settings = Settings(
        max_new_tokens=base.max_new_tokens,
        batch_size=rows_together(base, lm, list(prompts)),
        stop_strings=base.ends,
        repetition_penalty=base.repetition_penalty,
        think_tags=tags,
    )
    since = time.monotonic()
    for run in generate(lm, requests, settings):
        now = time.monotonic()
        yield _continuation(
            base, lm, prompts[points[run.index].prompt_index], points[run.index], run, now - since
        )
        since = now


def _press(point: Point, prompts: Sequence[Prompt], given: int) -> BasePress | None:
    """The press of the new cache of a prompt and so many new tokens."""
    n_prompt = len(prompts[point.prompt_index].token_ids)
    if point.rows is None:
        return point.spec.for_prompt(n_prompt + given)
    other = () if point.rows.other is None else tuple(prompts[point.rows.other].token_ids)
    base = point.spec.for_prompt(n_prompt)
    return RestoreRowsPress(base, n_prompt, point.rows.count, point.rows.choose, other)


def _continuation(
    base: Condition, lm: LanguageModel, prompt: Prompt, point: Point, run: Generation, seconds: float
) -> Continuation:
    left, _ = ended(base, lm, prompt, run)
    scored = judged(base, prompt.id, prompt.reference, left)
    return Continuation(
        point=point,
        token_ids=tuple(run.token_ids[point.keep :]),
        text=left.text,
        thinking_chars=left.thinking_chars,
        tokens=len(run.token_ids),
        stop_reason=run.stop_reason,
        error=run.error,
        correct=scored.correct,
        looping=scored.failures.looping,
        kept_tokens=run.cache.kept_tokens if run.cache else None,
        held_tokens=len(prompt.token_ids) + point.keep + len(point.then),
        wall_seconds=round(seconds, 3),
    )
