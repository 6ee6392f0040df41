"""``python -m kvhelpers``: run an experiment file, judge its saved answers again, render its log, or make a sample of it."""

from __future__ import annotations

import argparse
import sys

import yaml

from kvhelpers.errors import InputError
from kvhelpers.experiment import load_experiment
from kvhelpers.log import write_log
from kvhelpers.paths import relative
from kvhelpers.plan import plan, told
from kvhelpers.rescore import rescore
from kvhelpers.runner import run_experiment, where
from kvhelpers.samples import write_sample


def parse_override(text: str) -> tuple[str, object]:
    """``key=value`` with the value read as YAML, so that ``n_prompts=50`` is a number."""
    key, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--set {text!r} is no key=value")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise InputError(f"--set {text!r}: the value is no YAML: {' '.join(str(error).split())}") from error


def main(arguments: list[str] | None = None) -> int:
    """Return the exit status: 0, or 2 after one sentence on stderr."""
    parser = argparse.ArgumentParser(prog="kvhelpers", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run an experiment file, cell by cell, and write its log")
    run.add_argument("file", help="experiments/*.yaml")
    run.add_argument("--name", help="run it under another experiment name")
    run.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="parameters (needs --name)")
    run.add_argument("--dry-run", action="store_true", help="say what would run and how long it may take, and stop")
    run.add_argument("--scheduler", metavar="ADDRESS", help="Dask scheduler whose workers run the cells; default: this machine")
    run.add_argument("--workers", type=int, metavar="N", help="worker processes on this machine; default: one, or one per GPU")
    again = commands.add_parser("rescore", help="judge an experiment's saved answers by today's rules, without a model")
    again.add_argument("experiment")
    log = commands.add_parser("log", help="render the log of an experiment's finished cells")
    log.add_argument("experiment")
    sample = commands.add_parser("sample", help="copy an experiment's results to data/samples, without the top-20 lists")
    sample.add_argument("experiment")
    options = parser.parse_args(arguments)
    try:
        if options.command == "run":
            overrides = dict(map(parse_override, options.set))
            experiment = load_experiment(options.file, options.name, overrides)
            if options.dry_run:
                table = plan(experiment)
                print(table.to_string(index=False), told(experiment, table), sep="\n\n")
                return 0
            name, path = experiment.name, run_experiment(experiment, options.scheduler, options.workers)
        elif options.command == "rescore":
            print("{} of {} runs changed".format(*rescore(options.experiment)))
            name, path = options.experiment, write_log(options.experiment)
        elif options.command == "sample":
            print(f"sample: {relative(write_sample(options.experiment))}/")
            return 0
        else:
            name, path = options.experiment, write_log(options.experiment)
    except InputError as error:
        print(f"kvhelpers: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        where_to = f" ({error.filename})" if error.filename else ""
        print(f"kvhelpers: error: {error.strerror or error}{where_to}; what was finished is kept", file=sys.stderr)
        return 2
    print(where(path, name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
