"""Turn an experiment into the search that it asks for, and back: samples are variants of its cells.

So a search is planned, launched, continued and read like any run, by every launcher. Its data sets
hold out a share of `train`, its only protocol scores that share: the reported split stays unseen.
"""

from collections.abc import Iterable
from typing import Any

from segbench.errors import ExperimentError
from segbench.schema.base import Spec
from segbench.schema.experiment import Experiment, Override, Selector
from segbench.schema.search import Search
from segbench.schema.sweep import Cell

HOLDOUT = "dataset.view.holdout"
_HOLDOUT_BY = "dataset.view.holdout_by"


class Tuned(Spec):
    """The settings that a search found for the cells that match `where`.

    search: the run that tried them. sample: the name of its variant that was best. settings: dotted
    key -> value. score: of the metric on the held-out images, a fraction, mean over `cells`
    trainings. tried: how many samples the search gave these cells; done: how many of them ended well.
    differs: in what the search trained or scored otherwise than the file now says, empty if in nothing.
    """

    where: Selector
    search: str
    sample: str
    settings: dict[str, Any]
    metric: str
    score: float
    cells: int
    tried: int
    done: int
    differs: str = ""

    @property
    def warning(self) -> str:
        """What a reader must know of a search that is not of this recipe, empty where it is."""
        if not self.differs:
            return ""
        return (
            f"{self.search} was run with another recipe ({self.differs}): what was best there need not be "
            "best here"
        )


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
    first = next(iter(experiment.evaluate.values()))
    return experiment.revised(
        name=f"{experiment.name}-search",
        sweep=experiment.sweep.revised(seeds=experiment.sweep.seed_values[:1]),
        variants=_variants_of(search),
        evaluate={"search": first.revised(name="search", split="holdout", dataset=None)},
        published=(),
        claims=(),
    )


def _variants_of(search: Search) -> dict[str, dict[str, Any]]:
    samples = search.drawn_samples()
    digits = len(str(len(samples) - 1))
    held: dict[str, Any] = {HOLDOUT: search.holdout}
    if search.holdout_by == "group":
        held[_HOLDOUT_BY] = search.holdout_by
    return {f"sample{index:0{digits}}": {**held, **sample} for index, sample in enumerate(samples)}


def is_search(experiment: Experiment) -> bool:
    """Return whether the experiment is what `searched` makes of one, as a run's record has it."""
    return (
        experiment.search is not None
        and list(experiment.evaluate) == ["search"]
        and bool(experiment.variants)
        and all(HOLDOUT in settings for settings in experiment.variants.values())
    )


def settings_of(experiment: Experiment, sample: str) -> dict[str, Any]:
    """Return the settings of a sample of a search, without what makes it one."""
    variant = experiment.variants[sample]
    return {key: value for key, value in variant.items() if key not in {HOLDOUT, _HOLDOUT_BY}}


def with_tuned(experiment: Experiment, tuned: Iterable[Tuned]) -> Experiment:
    """Return the experiment whose cells take the settings that were found for them."""
    chosen = [Override(where=one.where, set=one.settings) for one in tuned]
    return experiment.revised(overrides=(*experiment.overrides, *chosen))


def brackets(search: Search, cells: Iterable[Cell]) -> tuple[tuple[str, ...], ...]:
    """Return the ids of the trials that asha compares with each other, one group for each value.

    Samples that are stopped early are those that are not among the best of their own group, so that
    a backbone whose figures are low loses none of its samples to another's.

    Raises:
        ExperimentError: a group would hold several cells, or trainings of several lengths.
    """
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        if cell.trial is not None:
            key = tuple(search.selector_of(cell.axes).values())
            groups.setdefault(key, []).append(cell)
    for group in groups.values():
        alike = {tuple(v for k, v in cell.axes.items() if k != "variant") for cell in group}
        steps = {cell.trial.train.steps for cell in group if cell.trial is not None}
        if len(alike) > 1 or len(steps) > 1:
            raise ExperimentError(
                f"asha compares samples of one cell with equal steps; there are {len(alike)} cells "
                f"and {len(steps)} numbers of steps: narrow the sweep with --only, or name in "
                "search.per the axes whose values are to be tuned apart"
            )
    ids = (dict.fromkeys(cell.trial_id for cell in group) for group in groups.values())
    return tuple(map(tuple, ids))
