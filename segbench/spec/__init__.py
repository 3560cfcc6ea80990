"""Kept for one release: `segbench.spec` is `segbench.schema` now, and its modules are those of `schema`."""

import importlib
import sys
from pkgutil import iter_modules

from segbench import schema

for module in iter_modules(schema.__path__):
    sys.modules[f"{__name__}.{module.name}"] = importlib.import_module(
        f"{schema.__name__}.{module.name}"
    )
