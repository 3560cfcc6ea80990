"""The base of every record that is read from YAML or JSON: frozen, strict, no unknown keys.

Knows nothing of any particular record, but what a selector is, as several hold some.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict

from segbench.files import digest, write_json


class Spec(BaseModel):
    """A frozen record. Sequences are tuples; the YAML reader produces them so.

    `not_identity` names the fields that cannot change any number (notes, licences, addresses):
    they are left out of `identity()`.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=True
    )
    not_identity: ClassVar[frozenset[str]] = frozenset()

    def identity(self) -> dict[str, Any]:
        """Return the JSON-ready fields that can change a number, nested records likewise.

        A field at its default is left out, so that a field that is added later leaves the identity
        of older records alone. A default that changes is another number: raise IDENTITY_VERSION.
        """
        return {
            name: _identity_of(getattr(self, name))
            for name, field in type(self).model_fields.items()
            if name not in self.not_identity
            and getattr(self, name) != field.get_default(call_default_factory=True)
        }

    def identity_digest(self, *, length: int = 64) -> str:
        """Return the sha256 (first `length` hexadecimal digits) of `identity()`."""
        return digest(self.identity(), length=length)

    def write_to(self, path: Path) -> None:
        """Write the record as JSON; equal records are equal bytes."""
        write_json(path, self.model_dump(mode="json"))

    def revised(self, **changes: Any) -> Self:
        """Return a copy with `changes`, validated like a record that was read."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self).model_validate({**fields, **changes})


def matches(axes: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Return whether a cell's axes have all of the selector's values."""
    return all(axes.get(axis) == value for axis, value in selector.items())


def _identity_of(value: Any) -> Any:
    if isinstance(value, Spec):
        return value.identity()
    if isinstance(value, dict):
        return {str(key): _identity_of(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_identity_of(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)  # `lr: 1` and `lr: 1.0` are one recipe
    return value
