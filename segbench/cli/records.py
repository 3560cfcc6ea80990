"""Let a command take records of options: Typer itself knows one parameter for each option.

Knows nothing of any command.
"""

import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import get_type_hints


def takes_records(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with the fields of its records as options of its own.

    A parameter whose type is a dataclass is such a record: each field is an `Annotated` option as
    Typer takes it, with its default. Fields stand in `--help` where the record stands.
    """
    hints = get_type_hints(command, include_extras=True)
    names: dict[str, list[str]] = {}  # record -> its options
    options: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        kind = hints[parameter.name]
        if not is_dataclass(kind):
            options.append(parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=kind))
            continue
        kinds = get_type_hints(kind, include_extras=True)
        names[parameter.name] = [field.name for field in fields(kind)]
        options += [
            inspect.Parameter(
                field.name, parameter.KEYWORD_ONLY, default=field.default, annotation=kinds[field.name]
            )
            for field in fields(kind)
        ]  # fmt: skip

    @wraps(command)
    def expanded(**given: object) -> None:
        records = {
            record: hints[record](**{name: given.pop(name) for name in options_of})
            for record, options_of in names.items()
        }
        command(**given, **records)

    expanded.__dict__["__signature__"] = inspect.Signature(options)
    expanded.__annotations__ = {option.name: option.annotation for option in options}
    return expanded
