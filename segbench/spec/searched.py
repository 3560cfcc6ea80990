"""Turn an experiment into the search that it asks for, and back: samples are variants of its cells.

So a search is planned, launched, continued and read like any run, by every launcher. Its data sets
hold out a share of `train`, its only protocol scores that share: the reported split stays unseen.
"""

from typing import Any

from segbench.errors import ExperimentError
from segbench.spec.experiment import Experiment, Override


def searched(experiment: Experiment) -> Experiment:
    """Return the experiment `<name>-search`, whose variants are the samples, with one seed.

    Raises:
        ExperimentError: it has no `search:`, or variants of its own.
    """
    search = experiment.search
    if search is None:
        raise ExperimentError(f"{experiment.name}: has no `search:`; say in it what to try")
    if experiment.variants:
        raise ExperimentError(
            f"{experiment.name}: has `variants:`; a search makes its own, so leave them out of it"
        )
    held_out = {"dataset.view.holdout": search.holdout}
    samples = search.drawn_samples()
    digits = len(str(len(samples) - 1))
    first = next(iter(experiment.evaluate.values()))
    return experiment.revised(
        name=f"{experiment.name}-search",
        sweep=experiment.sweep.revised(seeds=experiment.sweep.seed_values[:1]),
        variants={
            f"sample{index:0{digits}}": {**held_out, **sample}
            for index, sample in enumerate(samples)
        },
        evaluate={"search": first.revised(name="search", split="holdout")},
        published=(),
        claims=(),
    )


def with_settings(experiment: Experiment, settings: dict[str, Any]) -> Experiment:
    """Return the experiment with settings (dotted key -> value) that all its cells take."""
    chosen = Override(where={}, set=settings)
    return experiment.revised(overrides=(*experiment.overrides, chosen))
