"""Judge saved answers again, without a model: a changed answer rule or loop detector remakes summaries in seconds."""

from __future__ import annotations

import json

from tqdm import tqdm

from kvhelpers.experiment import finished_cells
from kvhelpers.paths import write_atomic
from kvhelpers.results import CellResult
from kvhelpers.scoring import score
from kvhelpers.summary import summarize


def rescore(experiment: str) -> tuple[int, int]:
    """Judge all finished runs of an experiment by today's rules; return how many changed, and of how many.

    Each cell's JSON is replaced as a whole; tokens and signals stay as they are.

    Raises
    ------
    InputError : the experiment has no finished cell, or an unreadable one.
    """
    changed = total = 0
    for cell in tqdm(finished_cells(experiment), desc=f"rescore {experiment}", unit="cell"):
        records = _rescored(cell)
        total += len(records)
        differ = sum(new != old for new, old in zip(records, cell.records, strict=True))
        summary = summarize(records, cell.signals(["prompt_index", "entropy", "top1_prob"]))
        if differ or summary != cell.summary:
            data = cell.data | {"records": records, "summary": summary}
            text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)
            write_atomic(cell.path, lambda path, text=text: path.write_text(text + "\n"))
        changed += differ
    return changed, total


def _rescored(cell: CellResult) -> list[dict]:
    signals = cell.signals(["prompt_index", "token_id", "char_end"])
    by_prompt = dict(tuple(signals.groupby("prompt_index")))
    records = []
    for record in cell.records:
        run = by_prompt.get(record["prompt_index"], signals[:0])
        ids, ends = run["token_id"].tolist(), run["char_end"].tolist()
        judged = score(record["text"], ids, ends, record["stop_reason"], record["error"], record["reference"])
        records.append(record | judged)
    return records
