"""The experiment log: Markdown rendered from finished conditions, keeping what people wrote into it.

Data are gathered here; the words are in ``templates/log.md.j2`` and the templates it uses.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from kvhelpers.analysis.analyse import FIRST, Analysis, analyse
from kvhelpers.analysis.claims import JudgedClaim, judge_claims
from kvhelpers.analysis.comparisons import Comparisons, compare_conditions
from kvhelpers.analysis.discriminators import WITHIN
from kvhelpers.analysis.half_accuracy import HalfAccuracy, curves, find_half_accuracies
from kvhelpers.analysis.runs import instructive_run, run_tokens
from kvhelpers.errors import InputError
from kvhelpers.experiment.grid import Experiment, find_experiment, finished_results
from kvhelpers.experiment.results import ConditionResult, find_baseline, flags_of
from kvhelpers.paths import figures_dir, log_path, relative, write_atomic
from kvhelpers.records import FailureMode, StopReason
from kvhelpers.report import figures
from kvhelpers.report.excerpt import read_labels, specimens
from kvhelpers.report.figures.signals import SHOWN
from kvhelpers.report.frames import log_frames, save_frames
from kvhelpers.report.render import render
from kvhelpers.report.setup import make_setup, without_home
from kvhelpers.report.tables import endings_table, grid_table, results_table
from kvhelpers.scoring.flags import baseline_is_weak

PROSE = re.compile(r"<!-- prose:(?P<name>[a-z-]+) -->\n(?P<text>.*?)<!-- /prose -->", re.DOTALL)
END = "/prose"
MARK = re.compile(r"<!--\s*prose:\s*([^\s>]*)|<!--\s*(/prose)")
NO_PROSE = {"notes": "", "next-steps": ""}
GRID_ABOVE = 8  # conditions; more are shown as a grid of presses and amounts


def write_log(experiment: str, root: Path | None = None, analysis: Analysis | None = None) -> Path:
    """Render an experiment's log, figures and tables from its finished conditions below ``root``; return the
    log's path.

    Text between ``<!-- prose:NAME -->`` and ``<!-- /prose -->`` in an existing log is kept. ``analysis`` is
    that of these conditions, if it is already made.

    Raises
    ------
    InputError : the experiment has no finished condition, or an unreadable one.
    """
    results, spec = finished_results(experiment, root), find_experiment(experiment, root)
    analysis = analysis or analyse(results)
    path, folder = log_path(experiment), figures_dir(experiment)
    written = _written(path)
    numbers = make_numbers(results, spec, analysis)
    images = {name: figures.save(figure, folder, name) for name, figure in draw(results, analysis).items()}
    tables = {table.stem: table for table in save_frames(numbers.frames, folder)}
    text = log_text(results, spec, analysis, numbers, images, tables, written)
    return write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _written(path: Path) -> dict[str, str]:
    """What people wrote into the log at this path, if there is one.

    Raises
    ------
    InputError : it is no text, or its prose marks are not those of a log, so that words would be lost.
    """
    try:
        log = path.read_text(encoding="utf-8") if path.exists() else ""
    except UnicodeDecodeError as error:
        raise InputError(f"log {relative(path)} is no UTF-8 text ({error}); save it as such") from error
    written, marks = read_prose(log), [name for names in MARK.findall(log) for name in names if name]
    if marks != [mark for name in written for mark in (name, END)] or not set(written) <= set(NO_PROSE):
        raise InputError(
            f"log {relative(path)} has prose marks that do not fit, so that what is written there would be "
            f"lost; each of {', '.join(NO_PROSE)} stands at most once, between '<!-- prose:NAME -->' and "
            f"'<!-- {END} -->' on lines of their own"
        )
    return written


def read_prose(log: str) -> dict[str, str]:
    """What people wrote into a log, by section."""
    return {match["name"]: match["text"] for match in PROSE.finditer(log)}


def draw(results: Sequence[ConditionResult], analysis: Analysis) -> dict[str, Figure]:
    """The log's figures by name; those that have nothing to show are missing."""
    told_apart = (analysis.discriminators["among"] == WITHIN) & analysis.discriminators["auroc"].notna()
    drawn = {
        "outcomes": figures.outcomes(results) if len(results) <= GRID_ABOVE else None,
        "kept": figures.rates_by_kept(curves(results)),
        "cache": figures.cache_over_time(results),
        "trace": _trace(results),
        "tokens": figures.token_trace(*instructive_run(results)),
        "heatmap": figures.heat_map(analysis.runs, analysis.signals["entropy"]),
        "onset": figures.aligned(analysis.aligned) if len(analysis.aligned["entropy"]) else None,
        "discriminators": figures.discriminator_dots(analysis.discriminators) if told_apart.any() else None,
        "modes": figures.mode_bars(analysis.runs),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _trace(results: Sequence[ConditionResult]) -> Figure | None:
    """The whole instructive run beside the uncompressed run of the same prompt; None if it has no token."""
    result, record = instructive_run(results)
    runs, baseline = [(result.label, run_tokens(result, record))], find_baseline(results, result)
    if baseline is not None and baseline is not result:
        same = [other for other in baseline.records if other.prompt_id == record.prompt_id]
        runs += [(baseline.label, run_tokens(baseline, other)) for other in same[:1]]
    not_valid = [of_run.label for of_run in results if of_run.is_invalid]
    return figures.trace(runs, record.onset, not_valid) if len(runs[0][1]) else None


@dataclass(frozen=True)
class Numbers:
    """What is computed for a log beside the analysis: comparisons, claims, half-accuracy points, and the tidy
    tables of it all by name.
    """

    comparisons: Comparisons
    claims: list[JudgedClaim]
    half_accuracies: list[HalfAccuracy]
    frames: dict[str, pd.DataFrame]


def make_numbers(results: Sequence[ConditionResult], spec: Experiment | None, analysis: Analysis) -> Numbers:
    """Compare an experiment's conditions."""
    comparisons = compare_conditions(results, spec.contrasts if spec else [])
    claims = judge_claims(spec.claims if spec else [], results, analysis)
    half_accuracies = find_half_accuracies(results)
    frames = log_frames(results, analysis, comparisons, claims, half_accuracies)
    return Numbers(comparisons, claims, half_accuracies, frames)


def log_text(
    results: Sequence[ConditionResult],
    spec: Experiment | None,
    analysis: Analysis,
    numbers: Numbers,
    images: Mapping[str, Path],
    tables: Mapping[str, Path],
    written: Mapping[str, str],
) -> str:
    """The log's Markdown. ``images`` and ``tables`` are the paths of figures (PNG) and tables (CSV) by name;
    ``written`` is prose by section.
    """
    first, baseline = results[0], find_baseline(results)
    labels = {result.label for result in results}
    result, record = instructive_run(results)
    runs = [(result, record) for result in results for record in result.records]
    modes, read = list(analysis.runs["mode"]), read_labels(first.condition.experiment)
    is_grid = len(results) > GRID_ABOVE
    text = render(
        "log",
        results=results,
        spec=spec,
        unfinished=[label for label in spec.labels() if label not in labels] if spec else [],
        written=NO_PROSE | written,
        images=_links(images),
        tables=_links(tables),
        condition=first.condition,
        identity=first.identity,
        setup=make_setup(results),
        flagged=_flagged(results),
        suspect=[result.label for result in results if result.is_invalid],
        baseline=baseline,
        weak=baseline is not None and baseline_is_weak(baseline.summary.accuracy.count),
        comparisons=numbers.comparisons,
        claims=numbers.claims,
        half_accuracies=numbers.half_accuracies,
        folder=without_home(relative(first.path.parents[1])),
        analysis=analysis,
        run=f"`{result.label}`, prompt {record.prompt_id}",
        shown=SHOWN,
        first=FIRST,
        excerpts=specimens(results, modes, read),
        passed_over=_passed_over(results, modes, read),
        cut_runs=[run for run in runs if run[1].stop_reason in (StopReason.ERROR, StopReason.TIMEOUT)],
        is_grid=is_grid,
        marked=any(record.marks for _, record in runs),
        thinks=any(record.thinking_tokens is not None for _, record in runs),
        endings_table=endings_table(results),
        results_table=grid_table(results, numbers.half_accuracies) if is_grid else results_table(results),
    )
    return text.rstrip() + "\n"


def _links(paths: Mapping[str, Path]) -> dict[str, str]:
    """Paths as seen from the log."""
    return {name: f"../{relative(path)}" for name, path in paths.items()}


def _flagged(results: Sequence[ConditionResult]) -> dict[str, list[tuple[ConditionResult, int]]]:
    """Each flag with the conditions that have it, and in how many runs."""
    flagged = defaultdict(list)
    for result in results:
        for name, count in flags_of(result, find_baseline(results, result)).items():
            flagged[name].append((result, count))
    return flagged


def _passed_over(
    results: Sequence[ConditionResult], modes: Sequence[str], read: Mapping[tuple[str, str], str]
) -> int:
    """Runs that the rule calls amnesia and a person did not."""
    runs = [(result.label, record.prompt_id) for result in results for record in result.records]
    amnesia = FailureMode.AMNESIA
    return sum(mode == amnesia != read.get(run, mode) for run, mode in zip(runs, modes, strict=True))
