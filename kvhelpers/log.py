"""The experiment log: Markdown rendered from finished cells, keeping what people wrote into it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from kvhelpers import conclusions, figures, signallog, statlog
from kvhelpers.analysis import Analysis, analyse
from kvhelpers.experiment import Experiment, find_experiment, finished_cells
from kvhelpers.paths import figures_dir, log_path, relative, write_atomic
from kvhelpers.prediction import QUANTILE
from kvhelpers.results import CellResult
from kvhelpers.tables import cell_flags, find_baseline, markdown_table, results_table
from kvhelpers.validity import FLAGS

PROSE = re.compile(r"<!-- prose:(?P<name>[a-z-]+) -->\n(?P<text>.*?)<!-- /prose -->", re.DOTALL)
OUTCOMES_OF = 16  # cells at most; more are seen in the figure of rates against kept tokens


def write_log(experiment: str, root: Path | None = None, quantile: float = QUANTILE) -> Path:
    """Render an experiment's log and figures from its finished cells below ``root``; return the log's path.

    Text between ``<!-- prose:NAME -->`` and ``<!-- /prose -->`` in an existing log is kept. ``quantile`` sets the threshold of
    the signals, see `prediction`.

    Raises
    ------
    InputError : the experiment has no finished cell, or an unreadable one; a quantile that is none.
    """
    cells, spec = finished_cells(experiment, root), find_experiment(experiment, root)
    found = analyse(cells, quantile)
    path = log_path(experiment)
    old = path.read_text() if path.exists() else ""
    prose = {match["name"]: match["text"] for match in PROSE.finditer(old)}
    text = render(cells, spec, found, _write_figures(cells, found, figures_dir(experiment)), prose)
    return write_atomic(path, lambda temporary: temporary.write_text(text))


def _write_figures(cells: Sequence[CellResult], found: Analysis, folder: Path) -> dict[str, Path]:
    outcomes = {"outcomes": figures.outcomes(cells)} if len(cells) <= OUTCOMES_OF else {}
    drawn = outcomes | statlog.draw(cells) | signallog.draw(cells, found)
    return {name: figures.save(figure, folder, name) for name, figure in drawn.items()}


def render(
    cells: Sequence[CellResult], spec: Experiment | None, found: Analysis, images: dict[str, Path], prose: dict[str, str]
) -> str:
    """The log's Markdown. ``images`` are the figures' PNG paths by name; ``prose`` is kept text by section name."""
    shown = {name: "../" + relative(path) for name, path in images.items()}
    first = cells[0]
    missing = [label for label in spec.labels() if label not in {cell.label for cell in cells}] if spec else []
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
        signallog.image(shown, "outcomes", "Accuracy and catastrophic failure rate of each cell"),
        "## Statistics",
        *statlog.section(cells, spec.contrasts if spec else [], shown),
        "## Result files",
        "\n".join(f"- `{relative(cell.path)}` and `.parquet` (config `{cell.data['config_hash'][:12]}`)" for cell in cells),
        "## Signal analysis",
        *signallog.signal_section(cells, found, shown),
        "## Failure modes",
        *signallog.mode_section(cells, found, shown),
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
    """What is kept of the cache, one line for all cells of which the same is to be said."""
    told: dict[str, list[str]] = {}
    for cell in cells:
        summary = cell.summary
        attention = cell.data["identity"]["attn"]
        eager = "; eager attention in the prefill" if attention == "eager" else ""
        eager += ", which this press needs" if eager and cell.config["attn"] == "auto" else ""
        what = f"no prompt could be prefilled{eager}"
        if summary["kept_tokens"] is not None:
            what = (
                f"keeps {summary['kept_tokens']:.1f} of {summary['prompt_tokens']:.1f} prompt tokens, "
                f"{summary['cache_bytes'] / 2**20:.1f} MiB of cache after the prefill (means over prompts){eager}"
            )
        told.setdefault(what, []).append(f"`{cell.label}`")
    return "\n".join(f"- {', '.join(labels)}: {what}" for what, labels in told.items())


def _flags(cells: Sequence[CellResult]) -> str:
    """Each flag with the cells that have it."""
    baseline = find_baseline(cells)
    told: dict[str, list[str]] = {}
    for cell in cells:
        for name, count in cell_flags(cell, baseline).items():
            told.setdefault(name, []).append(f"`{cell.label}` {count}/{cell.summary['n']}")
    lines = [f"- **{name}** ({FLAGS[name]}), in so many runs: " + ", ".join(labels) + "." for name, labels in told.items()]
    return "**Validity.** Read these numbers with care:\n\n" + "\n".join(lines) if lines else ""
