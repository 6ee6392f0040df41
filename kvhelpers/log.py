"""The experiment log: Markdown rendered from finished cells, keeping what people wrote into it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kvhelpers import conclusions, figures
from kvhelpers.errors import InputError
from kvhelpers.experiment import Experiment, find_experiment
from kvhelpers.paths import figures_dir, log_path, relative, write_atomic
from kvhelpers.presses import NONE
from kvhelpers.results import CellResult, read_experiment
from kvhelpers.summary import most_interesting
from kvhelpers.tables import cell_flags, find_baseline, markdown_table, results_table, signals_table
from kvhelpers.validity import FLAGS

EXCERPT = 400  # characters; of a looping run, half of them before the onset
PROSE = re.compile(r"<!-- prose:(?P<name>[a-z-]+) -->\n(?P<text>.*?)<!-- /prose -->", re.DOTALL)
MODES = {
    "Looping": lambda f, stop: f["looping"],
    "Non-termination without a loop": lambda f, stop: f["non_termination"] and not f["looping"],
    "Wrong answer, ended by itself": lambda f, stop: (
        f["wrong_answer"] and not f["looping"] and not f["non_termination"] and stop != "error"
    ),
}


def write_log(experiment: str) -> Path:
    """Render an experiment's log and figures from its finished cells; return the log's path.

    Text between ``<!-- prose:NAME -->`` and ``<!-- /prose -->`` in an existing log is kept.

    Raises
    ------
    InputError : the experiment has no finished cell, or an unreadable one.
    """
    spec = find_experiment(experiment)
    cells = _in_grid_order(read_experiment(experiment), spec)
    if not cells:
        raise InputError(f"experiment {experiment!r} has no finished cell to log; run one first")
    path = log_path(experiment)
    old = path.read_text() if path.exists() else ""
    prose = {match["name"]: match["text"] for match in PROSE.finditer(old)}
    text = render(cells, spec, _write_figures(cells, experiment), prose)
    return write_atomic(path, lambda temporary: temporary.write_text(text))


def _in_grid_order(cells: list[CellResult], spec: Experiment | None) -> list[CellResult]:
    order = [config.label() for config in spec.configs()] if spec else []
    return sorted(cells, key=lambda cell: order.index(cell.label) if cell.label in order else len(order))


def render(cells: Sequence[CellResult], spec: Experiment | None, images: dict[str, Path], prose: dict[str, str]) -> str:
    """The log's Markdown. ``images`` are the figures' PNG paths by name; ``prose`` is kept text by section name."""
    first = cells[0]
    missing = [config.label() for config in spec.configs() if config.label() not in {c.label for c in cells}] if spec else []
    sections = [
        f"# Experiment {first.config['experiment']}",
        "<!-- Made from data; edit only between the prose marks. -->",
        "## Objective",
        spec.objective if spec else "A run of single cells, without an experiment file.",
        *([f"**Not finished:** {', '.join(missing)}."] if missing else []),
        _prose("notes", prose),
        "## Setup",
        _setup(first) + (f"\n- **Command:** `{spec.command}`" if spec else ""),
        "## Compression configurations",
        _configurations(cells),
        "## Results",
        "Rates with Wilson 95 % intervals. CFR, the catastrophic failure rate, counts runs with any of non-termination, "
        "looping and wrong answer; runs that failed or timed out are in every denominator.",
        markdown_table(results_table(cells)),
        _flags(cells),
        _image(images, "outcomes", "Accuracy and catastrophic failure rate of each cell"),
        "## Result files",
        "\n".join(f"- `{relative(cell.path)}` and `.parquet` (config `{cell.data['config_hash'][:12]}`)" for cell in cells),
        "## Signal analysis",
        "Averages over runs: of the run's mean entropy, of its largest entropy (nats), of its smallest top-1 probability. A "
        "longer run has more chances of an extreme value: compare extremes only with the average tokens in mind.",
        markdown_table(signals_table(cells)),
        *conclusions.spike_sentences(cells),
        _image(images, "trace", "Entropy and top-1 probability of the run with most tokens before its failure"),
        "## Failure modes",
        *_failure_modes(cells),
        "## Conclusions",
        "\n".join(
            f"{number}. {sentence}"
            for number, sentence in enumerate(
                conclusions.accuracy_sentences(cells)
                + conclusions.catastrophe_sentences(cells)
                + conclusions.looping_sentences(cells),
                start=1,
            )
        ),
        "## Next steps",
        spec.next_steps.strip() if spec else "",
        _prose("next-steps", prose),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _prose(name: str, prose: dict[str, str]) -> str:
    return f"<!-- prose:{name} -->\n{prose.get(name, '')}<!-- /prose -->"


def _setup(cell: CellResult) -> str:
    config, identity, machine, versions = (cell.data[key] for key in ("config", "identity", "machine", "versions"))
    prompting = "multi-turn" if config["multiturn"] else "single-message"
    told = {
        "Model": f"`{config['model']}` ({identity['model_source'].replace(str(Path.home()), '~')})",
        "Task": f"{config['task']} ({identity['data'][:19]}), {config['n_fewshot']}-shot, {prompting} chat",
        "Prompts": f"{config['n_prompts']}, chosen by seed {config['seed']}",
        "Decoding": f"greedy, raw logits, repetition penalty {config['repetition_penalty']:g}, "
        f"at most {config['max_new_tokens']} new tokens",
        "Precision": f"{machine['dtype']} on {machine['device']}",
        "Machine": f"{machine['system']} {machine['processor']}, {machine['cores']} cores",
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    return "\n".join(f"- **{name}:** {value}" for name, value in told.items())


def _configurations(cells: Sequence[CellResult]) -> str:
    lines = []
    for cell in cells:
        summary = cell.summary
        attention = cell.data["identity"]["attn"]
        eager = "; eager attention in the prefill" if attention == "eager" else ""
        eager += ", which this press needs" if eager and cell.config["attn"] == "auto" else ""
        if summary["kept_tokens"] is None:
            lines.append(f"- `{cell.label}`: no prompt could be prefilled{eager}")
            continue
        megabytes = summary["cache_bytes"] / 2**20
        lines.append(
            f"- `{cell.label}`: keeps {summary['kept_tokens']:.1f} of {summary['prompt_tokens']:.1f} prompt tokens, "
            f"{megabytes:.1f} MiB of cache after the prefill (means over prompts){eager}"
        )
    return "\n".join(lines)


def _flags(cells: Sequence[CellResult]) -> str:
    baseline = find_baseline(cells)
    lines = [
        f"- `{cell.label}`: **{name}** in {count} of {cell.summary['n']} runs: {FLAGS[name]}."
        for cell in cells
        for name, count in cell_flags(cell, baseline).items()
    ]
    return "**Validity.** Read these numbers with care:\n\n" + "\n".join(lines) if lines else ""


def _failure_modes(cells: Sequence[CellResult]) -> list[str]:
    parts = []
    for mode, holds in MODES.items():
        compressed_first = sorted(cells, key=lambda cell: cell.config["press"] == NONE)
        found = [(c, r) for c in compressed_first for r in c.records if holds(r["failures"], r["stop_reason"])]
        per_cell = ", ".join(
            f"`{cell.label}` {count} of {cell.summary['n']}"
            for cell in cells
            if (count := sum(holds(r["failures"], r["stop_reason"]) for r in cell.records))
        )
        parts.append(f"**{mode}:** {per_cell or 'no run'}.")
        if found:
            parts.append(_excerpt(*found[0]))
    cut = conclusions.cut_sentences(cells)
    parts.append("**Failed or timed out:** " + (" ".join(cut) if cut else "no run."))
    return parts


def _excerpt(cell: CellResult, record: dict[str, Any]) -> str:
    text, onset = record["text"], record["loop_onset_char"]
    where, first = "", 0
    if onset is not None:
        where = f"; the loop starts at token {record['failures']['loop_onset']}, here after ⟦loop⟧"
        text, first = f"{text[:onset]}⟦loop⟧{text[onset:]}", max(0, onset - EXCERPT // 2)
    text = ("[…] " if first else "") + text[first : first + EXCERPT] + (" […]" if len(text) > first + EXCERPT else "")
    return (
        f"`{cell.label}`, prompt {record['prompt_id']}, right answer {record['reference']}, "
        f"{record['n_tokens']} tokens, stop reason `{record['stop_reason']}`{where}:\n\n{_quote(text)}"
    )


def _quote(text: str) -> str:
    """Model output as a code block that it cannot break out of."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


def _image(images: dict[str, Path], name: str, caption: str) -> str:
    if name not in images:
        return ""
    path = "../" + relative(images[name])
    return f"![{caption}]({path})"


def _write_figures(cells: Sequence[CellResult], experiment: str) -> dict[str, Path]:
    folder = figures_dir(experiment)
    images = {"outcomes": figures.save(figures.outcomes(cells), folder, "outcomes")}
    if (drawn := interesting_trace(cells)) is not None:
        images["trace"] = figures.save(drawn, folder, "trace")
    return images


def interesting_trace(cells: Sequence[CellResult]):
    """Trace figure of the experiment's most interesting run, beside the uncompressed run of the same prompt."""
    baseline = find_baseline(cells)
    cell, record = _most_interesting_run(cells)
    signals = cell.signals()
    runs = [(cell.label, signals[signals["prompt_index"] == record["prompt_index"]])]
    if not len(runs[0][1]):
        return None
    same = [r for r in baseline.records if r["prompt_id"] == record["prompt_id"]] if baseline else []
    if same and baseline is not cell:
        healthy = baseline.signals()
        runs.append((baseline.label, healthy[healthy["prompt_index"] == same[0]["prompt_index"]]))
    return figures.trace(runs, record["failures"]["loop_onset"])


def _most_interesting_run(cells: Sequence[CellResult]) -> tuple[CellResult, dict[str, Any]]:
    best = {id(record): (cell, record) for cell in cells if cell.records for record in [most_interesting(cell.records)]}
    return best[id(most_interesting([record for _, record in best.values()]))]
