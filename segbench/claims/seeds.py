"""What a reader must know of a claim's seeds: left out, unequal, outlying, without learning.

Sentences on how sound a comparison is; none of them changes a verdict. Letters: n seeds.
"""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from scipy import stats

from segbench.claims.verdict import Part
from segbench.errors import listed
from segbench.metrics.counts import Floats
from segbench.statistics.observations import ObservedCell, did_not_learn, is_blank

_UNEQUAL = 3.0  # times: up to here false verdicts stay rare in simulation, from 3 seeds on
_OUTLYING = 0.01  # of cells whose seeds are alike, one in a hundred has a seed called so


def notes_on_seeds(parts: Sequence[Part], *, needs_learning: bool) -> Iterator[str]:
    """Yield sentences on the seeds of all parts, each cell and kind of trouble once.

    needs_learning: whether models that did not learn say nothing of what is asked.
    """
    found: dict[str, dict[str, None]] = {}
    for part in parts:
        blank = _without_learning(part) if needs_learning else ()
        for what, whose in itertools.chain(_of_part(part), blank):
            found.setdefault(what, {})[whose] = None
    for what, whose in found.items():
        yield f"{what}: {listed(list(whose), 3)}."


def _of_part(part: Part) -> Iterator[tuple[str, str]]:
    if part.estimate is None:
        return
    for term, cell in zip(part.estimate.terms, part.cells, strict=True):
        used = len(term.sample.values)
        if used < len(cell.seeds):
            yield (
                "Seeds without a partner are left out, so that what is compared here differs from the "
                "means elsewhere",
                f"{_name(cell)} counts {used} of its {len(cell.seeds)} seeds",
            )
        if used == len(cell.seeds) and (odd := outlier_of(term.sample.values)) is not None:
            yield (
                "A seed lies far off the others (Grubbs' test at 1 %); means and intervals lean on it",
                f"{_name(cell)}: {cell.seeds[odd]}",
            )
    yield from _unequal(part)


def _without_learning(part: Part) -> Iterator[tuple[str, str]]:
    for cell in part.cells:
        blank = [str(one.seed) for one in cell.observations if did_not_learn(one)]
        if blank and not is_blank(cell):
            yield (
                "Seeds that did not learn count all the same; where one side alone has such seeds, "
                "false verdicts are likelier than 5 %",
                f"{_name(cell)}: {', '.join(blank)}",
            )


def _unequal(part: Part) -> Iterator[tuple[str, str]]:
    assert part.estimate is not None
    variances, dfs = part.estimate.of_seeds
    if len(variances) != 2 or min(variances) == 0 or min(dfs) < 2:
        return
    spreads = [math.sqrt(v * (df + 1)) for v, df in zip(variances, dfs, strict=True)]
    ratio = max(spreads) / min(spreads)
    if ratio > _UNEQUAL:
        yield (
            "Seeds of one side vary much more than those of the other, which makes false verdicts "
            "likelier than 5 %",
            f"{ratio:.1f} times as much{part.for_label}",
        )


def outlier_of(values: Floats) -> int | None:
    """Return which seed lies too far off the others, None where none does.

    Source: Grubbs, Procedures for detecting outlying observations in samples, Technometrics 1969.
    """
    n, spread = len(values), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    if n < 4 or spread == 0:
        return None
    away = np.abs(values - values.mean()) / spread
    t2 = float(stats.t.isf(_OUTLYING / (2 * n), n - 2)) ** 2
    limit = (n - 1) / math.sqrt(n) * math.sqrt(t2 / (n - 2 + t2))
    return int(away.argmax()) if away.max() > limit else None


def _name(cell: ObservedCell) -> str:
    return " ".join(filter(None, cell.axes.values()))
