"""The spreads that a run's claims have shown, kept for `segbench plan`, which must answer at once.

Knows nothing of how they come about.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from segbench.claims.planning import measured_spreads
from segbench.claims.verdict import Verdict
from segbench.errors import ResultError
from segbench.files import write_json
from segbench.schema.base import Spec
from segbench.schema.claims import AnyClaim, Claim
from segbench.statistics.power import Spread


class MeasuredSpread(Spec):
    """What a claim's comparison has to overcome, in points; see `segbench.statistics.power.Spread`.

    image_df: None where it is infinite.
    """

    claim: Claim
    seed_sd: float
    image_sd: float
    image_df: float | None = None


_LISTED = TypeAdapter(tuple[MeasuredSpread, ...])


def write_spreads(run_folder: Path, verdicts: Sequence[Verdict]) -> Path:
    """Write `spreads.json`; return it."""
    found = tuple(
        MeasuredSpread(
            claim=claim,
            seed_sd=spread.seed_sd,
            image_sd=spread.image_sd,
            image_df=spread.image_df if math.isfinite(spread.image_df) else None,
        )
        for claim, spread in measured_spreads(verdicts)
    )
    path = run_folder / "spreads.json"
    write_json(path, _LISTED.dump_python(found, mode="json"))
    return path


def load_spreads(run_folder: Path) -> list[tuple[AnyClaim, Spread]]:
    """Return what the last report saw; nothing where there was none.

    Raises:
        ResultError: the file is damaged.
    """
    path = run_folder / "spreads.json"
    try:
        found = _LISTED.validate_json(path.read_bytes())
    except FileNotFoundError:
        return []
    except (OSError, ValidationError) as error:
        raise ResultError(
            f"{path}: is damaged ({str(error).splitlines()[0]}); segbench report writes it anew"
        ) from error
    return [
        (one.claim, Spread(one.seed_sd, one.image_sd, one.image_df or math.inf)) for one in found
    ]
