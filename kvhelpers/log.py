"""The log of an experiment: what a run writes, tables and figure, among words that a person wrote.

`write_log` writes that of an experiment of conditions, whichever press, ratio and model; a study's script
writes its own with `table` and `write_tables`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kvhelpers import frames, own, plots
from kvhelpers.errors import InputError
from kvhelpers.estimates import HALF, RATES, curves, estimates
from kvhelpers.excerpts import excerpts, read_labels
from kvhelpers.experiment.grid import Contrast, Experiment, find_experiment, finished_results
from kvhelpers.experiment.results import ConditionResult, find_baseline, flags_of
from kvhelpers.format import DAGGER, GAP, markdown_table, points_of, rate
from kvhelpers.frames import save_frames
from kvhelpers.paths import REPOSITORY, figures_dir, log_path, relative, write_atomic
from kvhelpers.scoring.flags import FLAGS, INVALIDATING
from kvhelpers.signals import LAST, QUANTILES, SIGNALS
from kvhelpers.stats import SIGNIFICANCE, wilson
from kvhelpers.tasks.harness import PREFIX as HARNESS
from kvhelpers.tasks.prompts import CONTEXT

Form = str | Callable[[Any], str]  # a format string for the value, or what takes the row
Columns = Mapping[str, tuple[str, Form]]

ROWS = 10  # of the table of results
CONTRASTS = 6
BEGIN = "<!-- conclusions: a person's words, kept when the log is rewritten -->"
END = "<!-- end -->"
WORDS = re.compile(r"^<!-- conclusions:[^>\n]*-->\n(.*?)^<!-- end -->$", re.DOTALL | re.MULTILINE)
INVITATION = (
    "Nobody has written anything here yet. Look at the figure, the table and the excerpts, then write: what "
    "was found, what is surprising, what you do not believe and why. One numbered line for each.\n"
)


def write_log(experiment: str, root: Path | None = None, quantiles: Sequence[float] = QUANTILES) -> Path:
    """Write the log of an experiment's finished conditions below ``root``, its figure and its tables; return
    the log's path. The conclusions that stand in an existing log are kept.

    Raises
    ------
    InputError : the experiment has no finished condition, or an unreadable one; ``quantiles`` as
        `signals.alarms`; a log is there whose conclusions cannot be found, so that they would be lost.
    """
    results, spec = finished_results(experiment, root), find_experiment(experiment, root)
    path, folder = log_path(experiment), figures_dir(experiment)
    words = _words(path)
    runs, tokens = frames.runs(results), frames.tokens(results, SIGNALS)
    long = estimates(runs, tokens, spec.contrasts if spec else (), quantiles)
    shown = shown_conditions(runs, spec.contrasts if spec else ())
    plots.save(plots.rates(runs, shown), folder, "rates")
    save_frames({"estimates": long, "conditions": conditions_table(results, long)}, folder)
    text = log_text(results, spec, runs, long, shown, words)
    return write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _words(path: Path) -> str:
    """The conclusions in the log at this path; an invitation to write them if there is no log.

    Raises
    ------
    InputError : it is no text, or has not one place for conclusions.
    """
    try:
        log = path.read_text(encoding="utf-8") if path.exists() else f"{BEGIN}\n{INVITATION}{END}"
    except UnicodeDecodeError as error:
        raise InputError(f"log {relative(path)} is no UTF-8 text ({error}); save it as such") from error
    found = WORDS.findall(log)
    if len(found) != 1 or log.count("<!-- conclusions:") != 1 or log.count(END) != 1:
        raise InputError(
            f"log {relative(path)} has not one place for conclusions, so that what is written there would be "
            f"lost; put it between '{BEGIN}' and '{END}' on lines of their own, or move the file away"
        )
    return found[0]


def log_text(
    results: Sequence[ConditionResult],
    spec: Experiment | None,
    runs: pd.DataFrame,
    long: pd.DataFrame,
    shown: Sequence[str],
    words: str,
) -> str:
    """The log's Markdown; ``words`` are its conclusions, ``shown`` the conditions in its table."""
    name = results[0].condition.experiment
    folder = f"../{relative(figures_dir(name))}"
    files = f"[estimates.csv]({folder}/estimates.csv)"
    n = results[0].summary.n
    half = wilson(n // 2, n)
    there = set(map(own.bare, runs["condition"]))
    missing = sorted(label for label in spec.labels() if own.bare(label) not in there) if spec else []
    left_out = f"{len(results) - len(shown)} more conditions and all" if len(results) > len(shown) else "All"
    parts = [
        f"# Experiment {name}",
        f"<!-- `python -m kvhelpers log {name}` writes all but the conclusions. -->",
        "## Objective",
        spec.objective.strip() if spec else "A trial.",
        "## Setup",
        "\n".join(f"- {line}" for line in setup(results)),
        "```bash\n" + "\n".join(_commands(results, spec)) + "\n```",
        "## Conditions and results",
        _cut("Not finished: ", missing),
        _markdown(results_table(runs, long, shown)),
        f"In % of n runs; [Wilson 95 %], up to ±{50 * (half.high - half.low):.0f} points. *CFR*: no end, "
        f"loop or wrong. *Kept*: prompt tokens, a mean. {left_out} estimates: "
        f"[conditions.csv]({folder}/conditions.csv), {files}.",
        _flags(results, runs),
        _broken(runs),
        f"![Accuracy, catastrophic failures and loops with Wilson 95 % intervals]({folder}/rates.png)",
        *_second_table(runs, long, spec.contrasts if spec else (), files),
        "## Failure modes",
        *excerpts(runs, read_labels(name)),
        "## Conclusions",
        f"{BEGIN}\n{words}{END}",
        "## Next steps",
        (spec.next_steps.strip() if spec else "") or "None are written down.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown(frame: pd.DataFrame) -> str:
    return markdown_table(frame).replace(" --- ", "---")


def _cut(beginning: str, names: Sequence[str], most: int = 6) -> str:
    """The first of some names in a sentence, with how many more there are; nothing where there are none."""
    if not names:
        return ""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return beginning + ", ".join(f"`{name}`" for name in names[:most]) + more + "."


def setup(results: Sequence[ConditionResult]) -> list[str]:
    """Six lines that say how the conditions were run; of what differs between them, all values."""
    first, made = results[0], [result.provenance for result in results]
    condition, records = first.condition, [record for result in results for record in result.records]
    thinks = [f"thoughts between `{'` and `'.join(condition.think_tags)}`"] if condition.think_tags else []
    template = (
        [f"chat template with `{condition.chat_template_kwargs}`"] if condition.chat_template_kwargs else []
    )
    ignored = {key: value for one in made for key, value in one.ignored_generation_config.items()}
    unfollowed = [f"the model's own `{key}: {value}` is not followed" for key, value in ignored.items()]
    chosen = f"chosen by seed {condition.seed}" if condition.shuffle else "the first of the data file"
    chosen = "chosen by lm-evaluation-harness" if condition.task.startswith(HARNESS) else chosen
    turns = "as chat turns" if condition.multiturn else "in one message"
    files = {"of": condition.examples_file, "made by": condition.prompt_template}
    turns += "".join(f" {how} `{_without_home(file)}`" for how, file in files.items() if file)
    ends = ", ".join(f"`{text!r}`" for text in condition.ends) or "no text"
    sizes = sorted({record.batch_size for record in records if record.batch_size})
    eager = [result.label for result in results if result.attn == "eager"]
    machines = _distinct(
        f"{one.machine.system}, {one.machine.processor}, {one.machine.cores} cores, {one.machine.device}"
        for one in made
    )
    loads = [one.machine.load for one in made if (one.machine.load or 0) > (one.machine.cores or 1)]
    days = sorted({result.finished[:10] for result in results})
    commits = _distinct(
        f"`{one.commit[:12]}`" + ("" if one.clean else " with changes") if one.commit else "not noted"
        for one in made
    )
    minutes = sum(result.seconds for result in results) / 60
    lines = {
        "Model": [
            f"`{condition.model}`",
            _without_home(first.identity["model_source"])[:40],
            *template,
            *thinks,
        ],
        "Prompts": [
            f"{condition.n_prompts} of {own.short(condition.task)}, {chosen}",
            f"{condition.n_fewshot} worked examples {turns}",
            f"{sum(record.prompt_tokens for record in records) / len(records):.0f} tokens each",
            *_of_the_context(results),
        ],
        "Decoding": [
            "greedy from raw logits",
            f"repetition penalty {condition.repetition_penalty:g}",
            f"at most {condition.max_new_tokens} new tokens",
            "" if condition.stop_strings is None else f"{ends} ends an answer",
            f"{'–'.join(map(str, sizes[:1] + sizes[1:][-1:]))} rows together" if sizes else "",
            *unfollowed,
        ],
        "Prefill": [
            "eager attention" if len(eager) == len(results) else "sdpa attention",
            _cut("eager for ", eager, 3).removesuffix(".") if 0 < len(eager) < len(results) else "",
            *_distinct(one.machine.dtype for one in made),
        ],
        "Machine": [
            "; ".join(machines),
            f"{minutes:.0f} minutes, {' to '.join(days[:1] + days[1:][-1:])}",
            f"crowded (load up to {max(loads):.0f})" if loads else "",
        ],
        "Code": [
            f"commit {', '.join(commits)}",
            *_distinct(
                ", ".join(
                    f"{name} {one.versions[name]}"
                    for name in ("torch", "transformers", "kvpress")
                    if name in one.versions
                )
                for one in made
            ),
        ],
    }
    return [f"{name}: {'; '.join(filter(None, said))}." for name, said in lines.items()]


def _of_the_context(results: Sequence[ConditionResult]) -> list[str]:
    """What the setup says of conditions whose context alone is compressed."""
    those = [result for result in results if result.condition.compress == CONTEXT]
    caches = [record.cache for result in those for record in result.records if record.cache]
    if not caches:
        return []
    tokens = sum(cache.prompt_tokens for cache in caches) / len(caches)
    of = (
        ""
        if len(those) == len(results)
        else _cut(" of ", [result.label for result in those], 3).removesuffix(".")
    )
    return [
        f"compress `{CONTEXT}`{of}: ratio, budget and kept tokens are of the {tokens:.0f} tokens before the "
        "question, which is fed whole to the compressed cache"
    ]


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _without_home(path: str) -> str:
    """A path that does not name the user."""
    return path.replace(str(Path.home()), "~")


def _commands(results: Sequence[ConditionResult], spec: Experiment | None) -> list[str]:
    if spec and spec.command:
        return [spec.command]
    noted = (result.provenance.command for result in results)
    return _distinct(_without_home(command) for command in noted if command)[:ROWS]


def conditions_table(results: Sequence[ConditionResult], long: pd.DataFrame) -> pd.DataFrame:
    """A row per condition: its parts, rates, tokens and cache, flags, and where its results come from."""
    rates = long[long["question"] == "rate"].pivot(index="subject", columns="metric", values="estimate")
    rows = []
    for result in results:
        condition, summary = result.condition, result.summary
        flags = flags_of(result, find_baseline(results, result))
        rows.append(
            {"condition": result.label, "press": own.short(condition.press), "ratio": condition.ratio}
            | {"budget": condition.budget, "fields": condition.fields, "n": summary.n}
            | {name: rates.loc[result.label, name] for name in RATES}
            | {name: getattr(summary, name) for name in ("prompt_tokens", "kept_tokens", "cache_bytes")}
            | {"new_tokens": summary.avg_tokens, "seconds": result.seconds}
            | {
                "flags": "; ".join(f"{name} {count}" for name, count in flags.items()),
                "marks": mean_marks(result),
            }
            | {"commit": result.provenance.commit, "condition_hash": result.condition_hash}
            | {"file": _without_home(relative(result.path))}
        )
    table = pd.DataFrame(rows).astype({"budget": "Int64"})
    return table if table["marks"].any() else table.drop(columns="marks")


def mean_marks(result: ConditionResult) -> str:
    """Means of the marks that lm-evaluation-harness gave, by metric and filter."""
    means = pd.DataFrame([record.marks or {} for record in result.records]).mean()
    return "; ".join(f"{name} {mean:.2f}" for name, mean in means.items())


def shown_conditions(runs: pd.DataFrame, contrasts: Sequence[Contrast] = ()) -> list[str]:
    """The conditions in a log's table, at most ten, in the order of the runs: all; or the uncompressed
    ones and those that the log's contrasts name; or the uncompressed ones and of each press those whose
    accuracy is nearest to half of theirs.
    """
    labels = list(dict.fromkeys(runs["condition"]))
    plain = list(dict.fromkeys(runs.loc[frames.uncompressed(runs), "condition"]))
    named = [label for contrast in contrasts[:CONTRASTS] for label in (contrast.first, contrast.second)]
    if contrasts:
        chosen = [*plain, *(label for label in named if label in labels)]
    else:
        accuracy = runs.groupby("condition", sort=False)["correct"].mean()
        distance = (accuracy - HALF * accuracy[plain].max()).abs()
        ranks = [distance[curve["condition"].unique()].rank(method="first") for _, curve in curves(runs)]
        rank = pd.concat([pd.Series(-1, plain), *ranks]).reindex(labels, fill_value=len(labels))
        chosen = rank.sort_values(kind="stable").index
    chosen = _distinct(chosen)[:ROWS] if len(labels) > ROWS else labels
    return [label for label in labels if label in chosen]


def results_table(runs: pd.DataFrame, long: pd.DataFrame, shown: Sequence[str]) -> pd.DataFrame:
    """A row per condition that is shown: accuracy with its interval, other rates, tokens, n."""
    cells = long[long["question"] == "rate"].set_index(["subject", "metric"])
    titles = {"cfr": "CFR", "non_termination": "No end", "looping": "Loop", "wrong_answer": "Wrong"}
    titles |= {"never_left_thinking": "All thoughts"} if "never_left_thinking" in runs else {}
    rows = []
    for label in shown:
        part = runs[runs["condition"] == label]
        accuracy = cells.loc[(label, "accuracy")]
        low, high = (f"{100 * accuracy[end]:.0f}" for end in ("low", "high"))
        kept = part["kept_tokens"].mean()
        rows.append(
            {"Condition": label if part["valid"].all() else f"{label} {DAGGER}"}
            | {"Right": f"{100 * accuracy['estimate']:.0f} [{low}, {high}]"}
            | {title: f"{100 * cells.loc[(label, name), 'estimate']:.0f}" for name, title in titles.items()}
            | {"Kept": GAP if pd.isna(kept) else f"{kept:.0f}", "n": len(part)}
        )
    return pd.DataFrame(rows)


def screen_text(results: Sequence[ConditionResult]) -> str:
    """What a run says at its end: a row per condition, and what to look at next."""
    rows = []
    for result in results:
        shares = {name: rate(getattr(result.summary, name)) for name in RATES if name != "wrong_answer"}
        whole = [
            record.cache.prompt_tokens if record.cache else record.prompt_tokens for record in result.records
        ]
        kept = f"{result.summary.kept_tokens or 0:.0f} of {sum(whole) / len(whole):.0f}"
        flags = ", ".join(flags_of(result, find_baseline(results, result))) or GAP
        rows.append(
            {"condition": result.label, **shares, "kept": kept, "n": result.summary.n, "flags": flags}
        )
    table = f"{pd.DataFrame(rows).to_string(index=False)}\n(rates with Wilson 95 % intervals)"
    compressed = [result for result in results if not result.condition.is_baseline] or list(results)
    worst = max(compressed, key=lambda result: (not result.is_invalid, result.summary.cfr.count))
    executed = worst.path.with_suffix(".ipynb")
    where = f"its answers are in {relative(worst.path)}"
    if executed.exists():
        where = f"{relative(executed)} shows one of them beside the same prompt without compression"
    fails = f"{worst.summary.cfr.count} of {worst.summary.n} runs fail"
    return f"{table}\n\nLook next at {worst.label}, where {fails}: {where}."


def _flags(results: Sequence[ConditionResult], runs: pd.DataFrame) -> str:
    """In how many conditions each flag is raised; what those mean that take away a condition's meaning."""
    counts = Counter(name for result in results for name in flags_of(result, find_baseline(results, result)))
    if not counts:
        return ""
    raised = ", ".join(f"`{name}` in {counts[name]}" for name in FLAGS if counts[name])
    void = [f"`{name}`: {FLAGS[name]}" for name in INVALIDATING if counts[name]]
    dagger = f" {DAGGER}: no valid evidence; {'; '.join(void)}." if not runs["valid"].all() else ""
    return f"Flags, of {len(results)} conditions: {raised}.{dagger}"


def _broken(runs: pd.DataFrame) -> str:
    """Runs that broke, which are no failures of the model."""
    broken = runs[runs["errored"] | (runs["stop_reason"] == "timeout")]
    if not len(broken):
        return ""
    one = broken.iloc[0]
    reason = one["error"] or one["stop_reason"]
    return (
        f"{len(broken)} runs broke or were stopped by `timeout_s`, and count as failures: the first is "
        f"`{one['condition']}`, prompt {one['prompt']}: {' '.join(str(reason).split())[:120]}."
    )


def _second_table(
    runs: pd.DataFrame, long: pd.DataFrame, contrasts: Sequence[Contrast], files: str
) -> list[str]:
    """The contrasts, where there are any; else what entropy tells before loops."""
    if contrasts:
        return ["## Contrasts", *_contrasts(long, contrasts, files)]
    keyed = {one[1:4]: one for one in long[long["question"].str.startswith("alarm")].itertuples()}
    ever, last = "alarm before the loop", f"alarm in the {LAST} tokens before the loop"
    loops, immediate = (keyed.get((ever, "all", name)) for name in ("loops", "immediate"))
    if loops is None or not loops.estimate:
        return ["## Signals", "No loop, or no uncompressed run to set a threshold on: nothing to compare."]

    def shares(question: str, name: str) -> str:
        both = (keyed[question, name, metric].estimate for metric in ("matched", "by chance"))
        return "/".join(GAP if pd.isna(value) else f"{100 * value:.0f}" for value in both)

    rows = []
    for name in _distinct(name for _, name, _ in keyed if name.startswith("high")):
        row = {"Entropy above": f"{keyed[ever, name, 'threshold'].estimate:.2f} ({name.split()[1]})"}
        for question, when in ((ever, "Ever"), (last, f"Last {LAST}")):
            row |= {when: shares(question, name), f"{when}, points": points(keyed[question, name, "excess"])}
        false = keyed[ever, name, "false alarms"].estimate
        rows.append(row | {"False": GAP if pd.isna(false) else f"{100 * false:.0f}"})
    left_out = _distinct(runs.loc[~runs["valid"], "condition"])
    without = _cut("Without the flagged ", left_out, 2) + " " * bool(left_out)
    early = f"{immediate.estimate:.0f} more begin at token 0 or 1. " if immediate.estimate else ""
    return [
        "## Signals",
        _markdown(pd.DataFrame(rows)),
        f"Share (%) of {loops.estimate:.0f} loops / of comparable runs with entropy above this (nats; "
        f"quantile of uncompressed tokens) before the onset, ever or in the last {LAST} tokens; comparable: "
        "of the same condition, not ended, no loop yet. *Points*: the difference, 95 % for all rows "
        f"together. *False*: right runs with it. {early}{without}What else tells failures: {files}.",
    ]


def points(one: Any) -> str:
    """``−4 [−9, +1]``: a difference of shares in a row of the long frame, in points; a dash where there is
    none.
    """
    if pd.isna(one.estimate):
        return GAP
    return points_of(frames.as_estimate(one)).replace("no interval", GAP)


def _contrasts(long: pd.DataFrame, contrasts: Sequence[Contrast], files: str) -> list[str]:
    rows = []
    keyed = {one[1:4]: one for one in long[long["question"] == "contrast"].itertuples()}
    for contrast in contrasts:
        pair = f"{contrast.first} against {contrast.second}"
        both = [
            keyed.get(("contrast", f"{contrast.about}: {pair}", name)) for name in ("accuracy", "looping")
        ]
        if None in both:
            continue
        row = {"What": contrast.about + ("" if contrast.planned else " ‡"), "Conditions": pair}
        for title, one in zip(("Right", "Loop"), both, strict=True):
            row[f"{title}, points"] = f"**{points(one)}**" if one.q < SIGNIFICANCE else points(one)
        rows.append(row)
    if not rows:
        return ["No pair of conditions is finished."]
    more = f" {len(rows) - CONTRASTS} more: {files}." if len(rows) > CONTRASTS else ""
    after = (
        "" if all(contrast.planned for contrast in contrasts) else " ‡: thought of after the runs were seen."
    )
    return [
        _markdown(pd.DataFrame(rows[:CONTRASTS])),
        "The first minus the second on the same prompts, 95 % intervals; bold: q < .05 by McNemar's exact "
        f"test, corrected for all of these.{after}{more}",
    ]


def table(
    long: pd.DataFrame, head: str, rows: Mapping[str, tuple[str, str]], columns: Columns
) -> pd.DataFrame:
    """Rows of the long frame (`frames.LONG`) as text, a dash where there is none.

    ``rows`` are the question and subject by what stands below ``head``; ``columns`` are the metric, and how
    its row is written, by heading. A row has its estimate as ``value``, None for an end that is missing, and
    so can be written as a `stats.Estimate` is.
    """
    long = long.rename(columns={"estimate": "value"}).astype(object)
    by_key = {one[1:4]: one for one in long.where(long.notna(), None).itertuples()}

    def cell(key: tuple[str, str, str], form: Form) -> str:
        if (one := by_key.get(key)) is None:
            return GAP
        return form.format(one.value) if isinstance(form, str) else form(one)

    return pd.DataFrame(
        {head: name} | {heading: cell((*row, metric), form) for heading, (metric, form) in columns.items()}
        for name, row in rows.items()
    )


def with_tables(text: str, tables: Sequence[pd.DataFrame]) -> str:
    """A log with these tables in place of those that have the same columns, in their order; others are put at
    its end. All else stays as it is.
    """
    waiting = [markdown_table(table) + "\n" for table in tables]

    def fresh(found: re.Match) -> str:
        head = found[0].split("\n")[0]
        at = next((at for at, table in enumerate(waiting) if table.split("\n")[0] == head), None)
        return found[0] if at is None else waiting.pop(at)

    text = re.sub(r"(?:^\|.*\|\n)+", fresh, text, flags=re.MULTILINE)
    return "\n".join([text, *waiting])


def write_tables(name: str, tables: Sequence[pd.DataFrame], beginning: str) -> Path:
    """Write an experiment's log with these tables: the one that is there, else the repository's, else one
    with this beginning; return its path.
    """
    path = log_path(name)
    there = next((log for log in (path, REPOSITORY / "experiments" / path.name) if log.is_file()), None)
    text = with_tables(there.read_text(encoding="utf-8") if there else beginning, tables)
    return write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
