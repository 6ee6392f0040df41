"""``python -m kvhelpers``: run an experiment file or tasks of lm-evaluation-harness, judge saved answers
again, render a log, make a sample, check whether a setting is safe.

What a command needs is imported when it runs, after its input is checked: torch alone takes seconds.
"""

from __future__ import annotations

import argparse
import runpy
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from kvhelpers.errors import InputError, shown
from kvhelpers.paths import (
    experiment_script,
    figures_dir,
    find_results,
    guard_path,
    log_path,
    relative,
    results_dir,
)


def parse_overrides(texts: Sequence[str]) -> dict[str, object]:
    """Each ``key=value`` with the value read as YAML, so that ``n_prompts=50`` is a number.

    Raises
    ------
    InputError : no key=value, no value, one that is no plain YAML, or a key given twice.
    """
    from kvhelpers.experiment.plain import read_yaml

    overrides = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--set {shown(text)} is no key=value")
        if not value.strip():
            raise InputError(f"--set {shown(text)} has no value; write null for none")
        if key in overrides:
            raise InputError(f"--set gives {shown(key)} twice; give it once")
        overrides[key] = read_yaml(value, f"--set {shown(key)}: the value")
    return overrides


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kvhelpers", description=__doc__.partition("\n\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run an experiment file, condition by condition, and write its log")
    run.set_defaults(function=_run)
    run.add_argument("file", help="experiments/*.yaml")
    run.add_argument("--name", help="run it under another experiment name")
    run.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="parameters (needs --name)"
    )
    run.add_argument("--dry-run", action="store_true", help="say what would run and how long it may take")
    run.add_argument(
        "--scheduler", metavar="ADDRESS", help="Dask scheduler whose workers run it; default: this machine"
    )
    run.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="worker processes on this machine; default: one, or one per GPU",
    )
    _add_lm_eval(commands)
    guard = commands.add_parser("guard", help="act on finished runs, as a study's file says; write its log")
    guard.set_defaults(function=_guard)
    guard.add_argument("file", help="experiments/*.yaml with the key 'kind'")
    guard.add_argument("--name", help="run it under another name")
    guard.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="other values of its keys"
    )
    guard.add_argument(
        "--only", nargs="+", default=[], metavar="EXPERIMENT", help="only these of the study's sources"
    )
    for name, function, text in (
        ("rescore", _rescore, "judge an experiment's saved answers by today's rules, without a model"),
        ("log", _log, "render the log of an experiment's finished conditions, or of its committed sample"),
        ("verify", _verify, "check an experiment's files against what they say of themselves"),
        ("sample", _sample, "copy an experiment's results to data/samples, without the top-20 lists"),
    ):
        command = commands.add_parser(name, help=text)
        command.set_defaults(function=function)
        command.add_argument("experiment", help="its name, as in experiments/NAME.yaml")
    again = commands.add_parser("replay", help="feed finished runs to their caches again and look inside")
    again.set_defaults(function=_replay)
    again.add_argument("experiment", help="its name, as in experiments/NAME.yaml")
    again.add_argument(
        "--conditions", nargs="+", default=[], metavar="LABEL", help='such as "knorm 0.875"; default: all'
    )
    _add_check(commands)
    return parser


def _add_check(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "check", help="say whether a cache setting is safe, from two sets of answers"
    )
    parser.set_defaults(function=_check)
    parser.add_argument(
        "sets",
        nargs="*",
        metavar="ANSWERS",
        help="BASE and OTHER: EXPERIMENT:CONDITION, samples_*.jsonl of lm-evaluation-harness, or JSONL; "
        "without them both are generated, by the options that follow",
    )
    parser.add_argument("--margin", type=float, default=5.0, help="points of accuracy that may be lost")
    parser.add_argument("--out", metavar="FOLDER", help="where the page goes; default: figures/NAME")
    for option, kind, text in (
        ("model", str, "short name, hub id, folder or .gguf file"),
        ("press", str, "a short name, or a kvpress class"),
        ("ratio", float, "fraction of the prompt's cache removed"),
        ("task", str, "a task of this package; default: onestep"),
        ("name", str, "experiment of both conditions; default: check"),
    ):
        parser.add_argument(f"--{option}", type=kind, help=text)
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="other parameters"
    )


def _check(options: argparse.Namespace) -> str:
    from kvhelpers.commands.check import run_check, written
    from kvhelpers.compare import EXIT_CODES, as_markdown

    given = {"model": options.model, "press": options.press, "ratio": options.ratio}
    given |= {"task": options.task, "experiment": options.name}
    given = {key: value for key, value in given.items() if value is not None}
    done, folder = run_check(options.sets, parse_overrides(options.set) | given, options.margin, options.out)
    options.status = EXIT_CODES[done.verdict]
    return f"{as_markdown(done)}\n{written(folder)}"


def _add_lm_eval(commands: argparse._SubParsersAction) -> None:
    """Parameters of the press as everywhere here, the others as lm-evaluation-harness spells them."""
    parser = commands.add_parser("lm-eval", help="run tasks of lm-evaluation-harness under a press")
    parser.set_defaults(function=_lm_eval)
    parser.add_argument("--tasks", required=True, help="names of tasks or groups, or YAML files, with commas")
    parser.add_argument("--name", default="lm-eval", help="results go to experiments NAME-TASK")
    parser.add_argument("--model", help="short name, hub id, folder or .gguf file")
    parser.add_argument("--press", help="none, a short name, or a kvpress class")
    parser.add_argument("--ratio", type=float, help="fraction of the prompt's cache removed")
    parser.add_argument("--budget", type=int, help="tokens kept, instead of a ratio")
    parser.add_argument("--press-kwargs", metavar="JSON", help="the press's own fields")
    for option, metavar, text in (
        ("cache-type-k", "FORMAT", "in which keys are held, such as q8_0"),
        ("cache-type-v", "FORMAT", "in which values are held"),
        ("cache-kwargs", "JSON", 'what goes with them, as {"protect_tokens": 4}'),
        ("chat-template-kwargs", "JSON", 'parameters of the chat template, as {"enable_thinking": false}'),
        ("template-date", "DATE", "what a chat template is told that today is, as 2025-01-31"),
        ("think-tags", "JSON", 'what opens and closes thoughts, as ["<think>", "</think>"]'),
    ):
        parser.add_argument(f"--{option}", f"--{option.replace('-', '_')}", metavar=metavar, help=text)
    for option in ("--device", "--dtype"):
        parser.add_argument(option, default="auto")
    parser.add_argument(
        "--batch-size", default="auto", type=lambda text: int(text) if text.isdecimal() else text
    )
    for option, kind in (
        ("num-fewshot", int),
        ("limit", float),
        ("gen-kwargs", str),
        ("include-path", str),
        ("system-instruction", str),
    ):
        parser.add_argument(f"--{option}", f"--{option.replace('-', '_')}", type=kind)
    for option, default in (("apply-chat-template", False), ("fewshot-as-multiturn", True)):
        spelt = f"--{option}", f"--{option.replace('-', '_')}"
        parser.add_argument(*spelt, action=argparse.BooleanOptionalAction, default=default)


def _lm_eval(options: argparse.Namespace) -> str:
    from kvhelpers.lm_eval import Prompting, evaluate
    from kvhelpers.log import write_log

    keys = ("model", "press", "ratio", "budget", "press_kwargs", "device", "dtype", "batch_size")
    keys += ("chat_template_kwargs", "template_date", "think_tags")
    keys += ("cache_type_k", "cache_type_v", "cache_kwargs")
    given = {key: value for key in keys if (value := getattr(options, key)) is not None}
    done = evaluate(
        options.tasks.split(","),
        given,
        Prompting(options.apply_chat_template, options.fewshot_as_multiturn, options.system_instruction),
        name=options.name,
        num_fewshot=options.num_fewshot,
        limit=options.limit,
        gen_kwargs=options.gen_kwargs,
        include_path=options.include_path,
        command=shlex.join(["python", "-m", "kvhelpers", *options.arguments]),
    )
    lines = [
        done.table().to_string(index=False),
        f"lm-evaluation-harness's own files: {relative(done.folder)}/",
    ]
    for condition in done.conditions:
        write_log(condition.condition.experiment)
        lines.append(_where(condition.condition.experiment))
    return "\n".join(lines)


def _run(options: argparse.Namespace) -> str:
    from kvhelpers.experiment.grid import load_experiment

    experiment = load_experiment(options.file, options.name, parse_overrides(options.set))
    experiment.conditions()
    if options.dry_run:
        from kvhelpers.commands.plan import plan, plan_sentence

        table = plan(experiment)
        return f"{table.to_string(index=False)}\n\n{plan_sentence(experiment, table)}"
    from kvhelpers.commands.run import run_experiment

    run_experiment(experiment, options.scheduler, options.workers)
    from kvhelpers.experiment.grid import finished_results
    from kvhelpers.log import screen_text

    return f"{screen_text(finished_results(experiment.name))}\n\n{_where(experiment.name)}"


def _guard(options: argparse.Namespace) -> str:
    from kvhelpers.guard.definition import load_definition

    definition = load_definition(options.file, options.name, parse_overrides(options.set))
    from kvhelpers.commands.guard import run_study

    run_study(definition, options.file, options.set, options.only)
    return _where(definition.name)


def _rescore(options: argparse.Namespace) -> str:
    from kvhelpers.commands.rescore import rescore

    changed, total = rescore(options.experiment)
    return f"{changed} of {total} runs changed\n{_log(options)}"


def _log(options: argparse.Namespace) -> str:
    name, root = options.experiment, find_results(options.experiment)
    if guard_path(name, root).is_file():
        from kvhelpers.commands.guard import write_stored_log as write
    elif (script := _study_script(name, root)) is not None:
        write_log = runpy.run_path(str(script)).get("write_log")
        if write_log is None:
            raise InputError(
                f"{relative(script)} has no log of its own; run it, and the study that it belongs to"
            )
        write_log(name)
        return _where(name)
    else:
        from kvhelpers.log import write_log as write
    write(name, root)
    return _where(name)


def _study_script(name: str, root: Path) -> Path | None:
    """The script of an experiment that has no conditions of its own, or None."""
    from kvhelpers.experiment.results import result_paths

    script = experiment_script(name)
    return script if script.is_file() and not result_paths(name, root) else None


def _sample(options: argparse.Namespace) -> str:
    from kvhelpers.commands.sample import write_sample

    return f"sample: {relative(write_sample(options.experiment))}/"


def _verify(options: argparse.Namespace) -> str:
    name, root = options.experiment, find_results(options.experiment)
    if guard_path(name, root).is_file():
        return _verify_study(name)
    if (script := _study_script(name, root)) is not None:
        return f"{name} has no runs of its own; python {relative(script)} makes its numbers again"
    from kvhelpers.commands.verify import verify

    done = verify(name, root)
    if done.faults:
        raise InputError(f"experiment {name!r} does not hold together: " + "; ".join(done.faults))
    notes = [f"{done.conditions} conditions with {done.runs} runs hold together"]
    notes += [f"texts of {done.unread} were not compared, their model is not here"] if done.unread else []
    unasked = f"prompts of {done.unasked} were not compared, their model or their task's data are not here"
    notes += [unasked] if done.unasked else []
    unchecked = f"{done.unchecked} ran before models were checked against their own passes"
    notes += [unchecked] if done.unchecked else []
    return "; ".join(notes)


def _replay(options: argparse.Namespace) -> str:
    from kvhelpers.commands.replay import replay

    return f"{replay(options.experiment, options.conditions)} runs replayed"


def _verify_study(name: str) -> str:
    from kvhelpers.commands.guard import study_faults

    runs, faults = study_faults(name, find_results(name))
    if faults:
        raise InputError(f"study {name!r} does not hold together: " + "; ".join(faults))
    return f"{runs} runs hold together"


def _check_name(name: str) -> None:
    from kvhelpers.experiment.condition import check_name

    check_name(name)


def _where(name: str) -> str:
    """Lines that say where the log, the figures and the results are."""
    log, figures = relative(log_path(name)), relative(figures_dir(name))
    results = relative(results_dir(name, find_results(name)))
    return f"log: {log}\nfigures: {figures}/\nresults and executed notebooks: {results}/"


def main(arguments: list[str] | None = None) -> int:
    """Return the exit status: 0, or 2 after one sentence on stderr; `_check` has 1 and 3 too."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments, argparse.Namespace(arguments=arguments, status=0))
    try:
        if "experiment" in options:
            _check_name(options.experiment)
        print(options.function(options))
    except InputError as error:
        print(f"kvhelpers: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        at = f" ({error.filename})" if error.filename else ""
        print(f"kvhelpers: error: {error.strerror or error}{at}; what was finished is kept", file=sys.stderr)
        return 2
    return options.status


if __name__ == "__main__":
    sys.exit(main())
