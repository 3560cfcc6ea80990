"""Benchmarking semantic segmentation so that the answer can be believed."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segbench.runs.table import load_results

__all__ = ["load_results"]


def __getattr__(name: str) -> Any:
    """Load what notebooks use when it is asked for: `import segbench` itself costs nothing."""
    if name in __all__:
        from segbench.runs import table

        return getattr(table, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
