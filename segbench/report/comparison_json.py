"""What `segbench compare --json` prints: a comparison for programs, with all its digits.

Knows nothing of how a difference is tested.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from segbench.claims.verdict import QUESTIONS
from segbench.metrics import words_of
from segbench.statistics.pairwise import Comparison


def comparison_json(found: Comparison, left: str, right: str, notes: Sequence[str] = ()) -> str:
    """Return the comparison as one JSON object; equal comparisons are equal text.

    The fields are those of `Comparison` and, in `per_class`, of `ClassDifference`, in per cent and
    percentage points; an end of an interval that is not known is null. left_is, right_is: what was
    compared. metric_is, question_is: metric and question in words. notes: what a reader must know.
    """
    fields = {
        **asdict(found),
        "left_is": left,
        "right_is": right,
        "metric_is": words_of(found.metric),
        "question_is": QUESTIONS[found.question],
        "notes": list(notes),
    }
    return json.dumps(_finite(fields), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _finite(value: Any) -> Any:
    """Return the value with null for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
