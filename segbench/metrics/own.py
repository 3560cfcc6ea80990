"""A metric of the user's own, `package.module:name`, under the rule of trust that backbones have."""

from pathlib import Path

from segbench.code.own import look_in, trusted_function
from segbench.errors import CardError
from segbench.metrics.metric import Metric


def own_metric(name: str) -> Metric:
    """Import the metric that `module:name` says.

    Raises:
        CardError: the module is not trusted, or has no such metric.
    """
    look_in([Path.cwd()])
    found = trusted_function(name)
    if not isinstance(found, Metric):
        raise CardError(
            f"{name} is no metric but a {type(found).__name__}; expected an object of a class that "
            "extends segbench.metrics.Metric"
        )
    return found
