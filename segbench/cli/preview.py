"""What `run` and `plan` say before anything starts: how large the grid is, what is left of it."""

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from segbench.cli import console
from segbench.cli.app import ERR, OUT, fail
from segbench.errors import counted

if TYPE_CHECKING:
    from segbench.commands.run import PreparedRun
    from segbench.schema.sweep import Plan
    from segbench.schema.trial import Trial

_MOST_CELLS = 40


def say_plan(prepared: "PreparedRun", left: Mapping[str, "Trial"]) -> None:
    """Say how large the plan is, what is skipped, where it goes, and what weights are compared."""
    plan = prepared.asked
    _say_choices(prepared)
    OUT.print(
        f"{_size(plan)}; {len(plan.trials) - len(left)} ended, {len(left)} to run"
    )  # fmt: skip
    if prepared.search is not None and prepared.search.per:
        values = prepared.search.selectors_of(cell.axes for cell in plan.cells if cell.trial)
        samples = len(plan.axes["variant"])
        by = " x ".join(prepared.search.per)
        OUT.print(f"search: {samples} samples for each of {len(values)} values of {by}")
    for reason, number in _skipped(plan).items():
        OUT.print(f"skipped ({number}): {reason}")
    if len(whole := prepared.whole.trials) != len(plan.trials):
        trials = counted(len(whole), "trial")
        OUT.print(
            f"at most {trials}, if every cell gets the seeds of the last look"
            if prepared.settling.schedule
            else f"narrowed from {trials} of the whole sweep"
        )
    OUT.print(
        f"protocols: {', '.join(plan.experiment.evaluate)}; launcher: {plan.experiment.launch.launcher}; "
        f"results: {console.shown_path(prepared.run_folder)}"
    )


def _say_choices(prepared: "PreparedRun") -> None:
    """Say what was chosen by others than the file: a search, cards that hide cards, a default."""
    from segbench.runs.tuning import tuned_in_words
    from segbench.schema.initial_weights import random_by_default

    for tuned in prepared.tuned:
        OUT.print(tuned_in_words(tuned))
    for sentence in dict.fromkeys(tuned.warning for tuned in prepared.tuned if tuned.warning):
        ERR.print(sentence)
    for sentence in prepared.hidden_cards:
        ERR.print(f"hidden card: {sentence}")
    if warning := random_by_default(prepared.asked):
        ERR.print(warning)


def _size(plan: "Plan") -> str:
    """Return the grid in words, as `quickstart: 2 backbone x 3 seeds = 6 trials`."""
    axes = " x ".join(f"{len(values)} {axis}" for axis, values in plan.axes.items())
    seeds = len({cell.seed for cell in plan.cells})
    points = math.prod(len(values) for values in plan.axes.values()) * seeds
    gaps = (
        "without what is left out:" if _skipped(plan) or plan.experiment.sweep.exclude else "give"
    )
    equals = "=" if points == len(plan.trials) else gaps
    trials = counted(len(plan.trials), "trial")
    return f"{plan.experiment.name}: {axes} x {counted(seeds, 'seed')} {equals} {trials}"


def _skipped(plan: "Plan") -> Counter[str]:
    return Counter(cell.skipped for cell in plan.cells if cell.skipped)


def warning_of_batches(file: Path, prepared: "PreparedRun", left: Mapping[str, "Trial"]) -> str:
    """Return what to say of batch norm on few images; leave where it cannot train at all."""
    from segbench.commands.batch_norm import tiny_batches

    tiny = tiny_batches(left.values(), Path(prepared.machine.cache))
    if tiny.problems:
        fail("\n".join(f"{file}: {problem}" for problem in tiny.problems))
    return tiny.warning


def say_cells(prepared: "PreparedRun", left: Mapping[str, "Trial"]) -> None:
    """Name the trials and say which are done or failed; of a large grid the first ones."""
    from segbench.commands.run import cells_by_id
    from segbench.runs import trial_files
    from segbench.runs.status import label

    cells = cells_by_id(prepared.asked)
    for trial_id, cell in list(cells.items())[:_MOST_CELLS]:
        workdir = trial_files.trial_folder(prepared.run_folder, trial_id)
        failure = trial_files.load_failure(workdir)
        state = f"failed ({failure.kind})" if failure else "done"
        if trial_id in left:
            torn = ", ".join(path.name for path in trial_files.torn_files(workdir))
            state = f"to run ({torn}: damaged)" if torn else "to run"
        OUT.print(f"  {trial_id}  {label(cell.axes, cell.seed)}: {state}")
    if len(cells) > _MOST_CELLS:
        OUT.print(f"  and {len(cells) - _MOST_CELLS} more")
