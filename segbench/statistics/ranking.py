"""Rank models only as far as their differences are decided: intervals, places, and rank letters.

A pair of models is decided when the test of claims (seeds and images together, corrected over all
pairs by Holm) says so; with fewer than three seeds on a side it is not, however far apart they are.
Where images come from too few groups to tell of new ones, models of several seeds are ranked on the
very images that were scored.
Models that share a letter are not told apart (compact letter display).
Knows nothing of files or of how a ranking is drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from segbench.statistics.inference import (
    MIN_GROUPS,
    MIN_SEEDS,
    Estimate,
    SeedSample,
    Term,
    estimate,
    holm,
    tails,
)
from segbench.statistics.observations import Observation, scored, shared_seeds
from segbench.statistics.power import ALPHA
from segbench.statistics.samples import sample_of

Varying = Literal["seeds and images", "images alone", "seeds"]
_MOST_GROUPS = 52  # of models that are not told apart: a to z, twice


@dataclass(frozen=True)
class Standing:
    """A model among the others of its ranking; per cent.

    low, high: 95 % interval over what `varies`: new seeds and new images, with one seed new images
    alone, and new seeds where the images come from too few groups to tell of new ones.
    first, last: the places that it may have, as far as pairs are decided. letters: empty where it
    has too few seeds for any decision, or where the table has too many groups.
    """

    mean: float
    low: float
    high: float
    num_seeds: int
    first: int
    last: int
    letters: str
    varies: Varying = "seeds and images"

    @property
    def place(self) -> str:
        """The places that it may have, in words."""
        return str(self.first) if self.first == self.last else f"{self.first}\u2013{self.last}"


@dataclass(frozen=True, eq=False)
class Ranking:
    """Standings in the order of the models given.

    decided[i, j]: i is shown to be above j. is_of_new_images: whether that speaks of new images.
    """

    standings: tuple[Standing, ...]
    decided: NDArray[np.bool_]
    is_of_new_images: bool = True


def ranking_of(models: Sequence[Sequence[Observation]]) -> Ranking:
    """Return how models stand to each other by mean IoU.

    models: the observations of each one's seeds, all on the same images.
    """
    samples = [
        sample_of([scored(one) for one in model], "mean_iou", groups=model[0].groups)
        for model in models
    ]
    decided = decided_pairs(samples, models)
    means = [float(sample.values.mean()) for sample in samples]
    letters = letters_of(means, decided | decided.T)
    groups = {name for model in models[:1] for name in model[0].groups}
    is_of_new_images = not groups or len(groups) >= MIN_GROUPS
    several: Varying = "seeds and images" if is_of_new_images else "seeds"
    standings = []
    for index, sample in enumerate(samples):
        low, high = _asked((Term(1.0, sample, "own"),)).interval()
        num_seeds = len(sample.values)
        standings.append(
            Standing(
                mean=means[index],
                low=max(low, 0.0),
                high=min(high, 100.0),
                num_seeds=num_seeds,
                first=1 + int(decided[:, index].sum()),
                last=len(samples) - int(decided[index].sum()),
                letters=letters[index] if num_seeds >= MIN_SEEDS else "",
                varies="images alone" if num_seeds == 1 else several,
            )
        )
    return Ranking(tuple(standings), decided, is_of_new_images)


def _asked(terms: Sequence[Term], *, paired: bool = False) -> Estimate:
    """Return the effect with its error on new images, on these where they tell nothing of new ones."""
    found = estimate(terms, paired=paired)
    return found if found.speaks_of_new_images or found.seeds == 1 else found.on_these_images()


def decided_pairs(
    samples: Sequence[SeedSample], models: Sequence[Sequence[Observation]]
) -> NDArray[np.bool_]:
    """Return (K, K) whether the row's mean is shown to lie above the column's."""
    pairs = [
        (left, right)
        for left in range(len(samples))
        for right in range(left + 1, len(samples))
        if min(len(samples[left].values), len(samples[right].values)) >= MIN_SEEDS
    ]
    p_values, signs = [], []
    for left, right in pairs:
        result = difference_of((samples[left], samples[right]), (models[left], models[right]))
        p_values.append(min(1.0, 2 * min(tails(result, 0.0))))
        signs.append(result.effect > 0)
    decided = np.zeros((len(samples), len(samples)), dtype=bool)
    for (left, right), p, is_above in zip(pairs, holm(p_values), signs, strict=True):
        if p <= ALPHA:
            decided[(left, right) if is_above else (right, left)] = True
    return decided


def difference_of(
    samples: tuple[SeedSample, SeedSample],
    models: tuple[Sequence[Observation], Sequence[Observation]],
) -> Estimate:
    """Return the first less the second, seed by seed where claims would pair them."""
    shared = shared_seeds(*models)
    if paired := len(shared) > 1:
        left, right = (
            sample.of_seeds([i for i, one in enumerate(model) if one.seed in shared])
            for sample, model in zip(samples, models, strict=True)
        )
    else:
        left, right = samples
    return _asked((Term(1.0, left, "left"), Term(-1.0, right, "right")), paired=paired)


def letters_of(means: Sequence[float], differs: NDArray[np.bool_]) -> list[str]:
    """Return letters such that two models share one exactly if they do not differ.

    `a` goes to the group of the best model. Without any letters where they would be more than
    anybody reads: many models can fall into very many overlapping groups.
    Source: Piepho, An algorithm for a letter-based representation of all-pairwise comparisons,
    J. Comput. Graph. Stat. 13 (2004): insert, absorb.
    """
    order = sorted(range(len(means)), key=lambda index: (-means[index], index))
    groups = [frozenset(order)] if order else []
    for place, left in enumerate(order):
        for right in order[place + 1 :]:
            if differs[left, right]:
                split = [group for group in groups if {left, right} <= group]
                groups = [group for group in groups if group not in split]
                for half in (g - {gone} for g in split for gone in (left, right)):
                    if not any(half <= group for group in groups):
                        groups = [group for group in groups if not group < half] + [half]
                if len(groups) > _MOST_GROUPS:
                    return [""] * len(means)
    places = {model: place for place, model in enumerate(order)}
    groups.sort(key=lambda group: sorted(places[model] for model in group))
    return [
        _joined([_letter(number) for number, group in enumerate(groups) if model in group])
        for model in range(len(means))
    ]


def _letter(number: int) -> str:
    """Return a, b ... z, then a2, b2 ..."""
    round_, letter = divmod(number, 26)
    return chr(ord("a") + letter) + (str(round_ + 1) if round_ else "")


def _joined(letters: list[str]) -> str:
    return ("" if all(len(letter) == 1 for letter in letters) else " ").join(letters)
