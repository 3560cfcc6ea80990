"""Benchmark semantic segmentation with answers you can trust."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segbench.api import (
        Comparison,
        Counts,
        PlannedTrial,
        RunOptions,
        Scores,
        build_model,
        compare,
        load_results,
        plan,
        run,
        score,
    )
    from segbench.engine.torchmetric import ConfusionMatrix

__all__ = [
    "Comparison",
    "ConfusionMatrix",
    "Counts",
    "PlannedTrial",
    "RunOptions",
    "Scores",
    "build_model",
    "compare",
    "load_results",
    "plan",
    "run",
    "score",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is asked for: `import segbench` itself costs nothing."""
    if name == "ConfusionMatrix":  # of an extra, which takes seconds to load
        try:
            from segbench.engine.torchmetric import ConfusionMatrix
        except ModuleNotFoundError as error:
            raise ImportError(
                "segbench.ConfusionMatrix needs torchmetrics: pip install 'segbench[metrics]'"
            ) from error
        return ConfusionMatrix
    if name in __all__:
        from segbench import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
