"""The experiment log: Markdown rendered from finished conditions, keeping what people wrote into it.

Data are gathered here; the words are in ``templates/log.md.j2`` and the templates it uses.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from matplotlib.figure import Figure

from kvhelpers.analysis.analyse import FIRST, Analysis, analyse
from kvhelpers.analysis.comparisons import compare_conditions
from kvhelpers.analysis.discriminators import WITHIN
from kvhelpers.analysis.half_accuracy import curves, find_half_accuracies
from kvhelpers.analysis.runs import instructive_run, run_tokens
from kvhelpers.experiment.grid import Experiment, find_experiment, finished_results
from kvhelpers.experiment.results import ConditionResult, find_baseline, flags_of, is_invalid
from kvhelpers.paths import figures_dir, log_path, relative, write_atomic
from kvhelpers.records import FailureMode, StopReason
from kvhelpers.report import figures, tables
from kvhelpers.report.excerpt import Excerpt, make_excerpt
from kvhelpers.report.figures.signals import SHOWN
from kvhelpers.report.render import render
from kvhelpers.scoring.flags import baseline_is_weak

PROSE = re.compile(r"<!-- prose:(?P<name>[a-z-]+) -->\n(?P<text>.*?)<!-- /prose -->", re.DOTALL)
NO_PROSE = {"notes": "", "next-steps": ""}
OUTCOMES_OF = 16  # conditions at most; more are seen in the figure of rates against kept tokens


@dataclass(frozen=True)
class Kept:
    """What is kept of the cache (means over prompts, to one digit), and the ``labels`` of the conditions of
    which that is true.

    ``eager`` attention in the prefill was asked for, or ``press_needs_it``.
    """

    kept_tokens: float | None
    prompt_tokens: float
    mebibytes: float | None
    eager: bool
    press_needs_it: bool
    labels: tuple[str, ...] = ()


def write_log(experiment: str, root: Path | None = None, analysis: Analysis | None = None) -> Path:
    """Render an experiment's log and figures from its finished conditions below ``root``; return the log's
    path.

    Text between ``<!-- prose:NAME -->`` and ``<!-- /prose -->`` in an existing log is kept. ``analysis`` is
    theirs, if it is made already.

    Raises
    ------
    InputError : the experiment has no finished condition, or an unreadable one.
    """
    results, spec = finished_results(experiment, root), find_experiment(experiment, root)
    analysis = analysis or analyse(results)
    path, folder = log_path(experiment), figures_dir(experiment)
    written = read_prose(path.read_text() if path.exists() else "")
    images = {name: figures.save(figure, folder, name) for name, figure in draw(results, analysis).items()}
    text = log_text(results, spec, analysis, images, written)
    return write_atomic(path, lambda temporary: temporary.write_text(text))


def read_prose(log: str) -> dict[str, str]:
    """What people wrote into a log, by section."""
    return {match["name"]: match["text"] for match in PROSE.finditer(log)}


def draw(results: Sequence[ConditionResult], analysis: Analysis) -> dict[str, Figure]:
    """The log's figures by name; those that have nothing to show are missing."""
    told_apart = (analysis.discriminators["among"] == WITHIN) & analysis.discriminators["auroc"].notna()
    drawn = {
        "outcomes": figures.outcomes(results) if len(results) <= OUTCOMES_OF else None,
        "kept": figures.rates_by_kept(curves(results), find_baseline(results)),
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
    runs, baseline = [(result.label, run_tokens(result, record))], find_baseline(results)
    if baseline is not None and baseline is not result:
        same = [other for other in baseline.records if other.prompt_id == record.prompt_id]
        runs += [(baseline.label, run_tokens(baseline, other)) for other in same[:1]]
    return figures.trace(runs, record.onset) if len(runs[0][1]) else None


def log_text(
    results: Sequence[ConditionResult],
    spec: Experiment | None,
    analysis: Analysis,
    images: Mapping[str, Path],
    written: Mapping[str, str],
) -> str:
    """The log's Markdown. ``images`` are the figures' PNG paths by name; ``written`` is prose by section."""
    first, baseline = results[0], find_baseline(results)
    comparisons = compare_conditions(results, spec.contrasts if spec else [])
    labels = {result.label for result in results}
    result, record = instructive_run(results)
    runs = [(result, record) for result in results for record in result.records]
    return (
        render(
            "log",
            results=results,
            spec=spec,
            unfinished=[label for label in spec.labels() if label not in labels] if spec else [],
            written=NO_PROSE | written,
            images={name: f"../{relative(path)}" for name, path in images.items()},
            condition=first.condition,
            identity=first.identity,
            machine=first.provenance.machine,
            versions=first.provenance.versions,
            model_source=_without_home(first.identity["model_source"]),
            configurations=_configurations(results),
            flagged=_flagged(results),
            suspect=[result.label for result in results if is_invalid(result, baseline)],
            baseline=baseline,
            weak=baseline is not None and baseline_is_weak(baseline.summary.accuracy.count),
            comparisons=comparisons,
            files=[(_without_home(relative(result.path)), result.condition_hash) for result in results],
            analysis=analysis,
            run=f"`{result.label}`, prompt {record.prompt_id}",
            shown=SHOWN,
            first=FIRST,
            excerpts=_excerpts(results, analysis),
            cut_runs=[run for run in runs if run[1].stop_reason in (StopReason.ERROR, StopReason.TIMEOUT)],
            tables={
                "results": tables.results_table(results),
                "accuracy": tables.comparison_table(comparisons.accuracy),
                "never_ends": tables.comparison_table(comparisons.never_ends),
                "half_accuracies": tables.half_accuracy_table(find_half_accuracies(results)),
                "signals": tables.signals_table(results),
                "discriminators": tables.discriminator_table(analysis.discriminators),
                "presses": tables.press_table(analysis.discriminators),
                "modes": tables.mode_table(analysis.runs),
            },
        )
        + "\n"
    )


def _without_home(path: str) -> str:
    """A path that does not name the user."""
    return path.replace(str(Path.home()), "~")


def _configurations(results: Sequence[ConditionResult]) -> list[Kept]:
    """What is kept of the cache, once for all conditions of which the same is to be said."""
    labels: dict[Kept, list[str]] = defaultdict(list)
    for result in results:
        summary = result.summary
        kept = Kept(
            kept_tokens=None if summary.kept_tokens is None else round(summary.kept_tokens, 1),
            prompt_tokens=round(summary.prompt_tokens, 1),
            mebibytes=None if summary.cache_bytes is None else round(summary.cache_bytes / 2**20, 1),
            eager=result.identity["attn"] == "eager",
            press_needs_it=result.condition.attn == "auto",
        )
        labels[kept].append(result.label)
    return [replace(kept, labels=tuple(of_kept)) for kept, of_kept in labels.items()]


def _flagged(results: Sequence[ConditionResult]) -> dict[str, list[tuple[ConditionResult, int]]]:
    """Each flag with the conditions that have it, and in how many runs."""
    baseline, flagged = find_baseline(results), defaultdict(list)
    for result in results:
        for name, count in flags_of(result, baseline).items():
            flagged[name].append((result, count))
    return flagged


def _excerpts(
    results: Sequence[ConditionResult], analysis: Analysis
) -> list[tuple[FailureMode, Excerpt | None]]:
    """A run of each mode that is a failure of the model: the instructive run if it is one, else the first
    compressed one, else the first.
    """
    runs = [(result, record) for result in results for record in result.records]
    mode_of = {id(record): mode for (_, record), mode in zip(runs, analysis.runs["mode"], strict=True)}
    compressed_first = sorted(runs, key=lambda run: run[0].condition.is_baseline)
    order = [instructive_run(results), *compressed_first]
    excerpts = []
    for mode in reversed(FailureMode):
        if mode not in (FailureMode.CORRECT, FailureMode.ERRORED):
            run = next((run for run in order if mode_of[id(run[1])] == mode), None)
            excerpts.append((mode, make_excerpt(*run) if run else None))
    return excerpts
