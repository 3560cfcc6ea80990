"""A trial: one point of the sweep with one seed, its cards inside; and its identity.

The id is a digest of all that can change the trained weights, and of nothing else: notes, key
order, paths, launcher and device leave it alone. An evaluation adds the protocol's digest, so
several protocols score one training. Knows nothing of sweeps.
"""

from typing import Annotated, Any

from pydantic import Field, StringConstraints

from segbench.files import digest
from segbench.schema.base import Spec
from segbench.schema.cards import BackboneCard, DatasetCard, Weights
from segbench.schema.heads import Head, Model
from segbench.schema.recipe import Recipe

IDENTITY_VERSION = 3  # raised when the code gives other numbers for the same trial, so that old results are not reused
ID_LENGTH = 12
Seed = Annotated[int, Field(ge=0, lt=2**31)]
TrialId = Annotated[str, StringConstraints(pattern=rf"^[0-9a-f]{{{ID_LENGTH}}}$")]


class Trial(Spec):
    """Everything that `run_trial` needs to train one model, resolved and frozen.

    weights: the parameters that the trunk starts from, None = random.
    start_from: the id of the trial whose final weights this one starts from.
    code: what the user's own functions were made of when the trial was planned, see
    `segbench.code.own.code_of`; empty where all are segbench's and torchvision's.
    """

    backbone: BackboneCard
    head: Head
    dataset: DatasetCard
    model: Model
    weights: Weights | None
    train: Recipe
    seed: Seed
    start_from: TrialId | None = None
    code: dict[str, str] = {}

    def id(self) -> str:
        """Return the 12 hexadecimal digits that name the trial and its folder."""
        return trial_id(
            {name: part.identity_digest() for name, part in self.parts().items()},
            seed=self.seed,
            start_from=self.start_from,
            code=self.code,
        )

    @property
    def functions(self) -> tuple[str, ...]:
        """Every `module:name` that the trial's cards have segbench call."""
        reader = self.dataset.reader
        functions = (self.backbone.builder, self.head.builder, reader and reader.function)
        return tuple(filter(None, functions))

    def parts(self) -> dict[str, Spec]:
        """Return the records that many trials share, by field name."""
        parts: dict[str, Spec] = {
            "backbone": self.backbone,
            "head": self.head,
            "dataset": self.dataset,
            "model": self.model,
            "train": self.train,
        }
        return parts if self.weights is None else {**parts, "weights": self.weights}

    def card_digests(self) -> dict[str, str]:
        """Return the full sha256 of each shared record, and of the user's code, for provenance."""
        found = {name: part.identity_digest() for name, part in sorted(self.parts().items())}
        return {**found, "code": digest(self.code)} if self.code else found


def trial_id(
    part_digests: dict[str, str], *, seed: int, start_from: str | None, code: dict[str, str]
) -> str:
    """Return the id of the trial with these parts; see `Trial.id`."""
    identity: dict[str, Any] = {"version": IDENTITY_VERSION, "seed": seed, **part_digests}
    if start_from is not None:
        identity["start_from"] = start_from
    if code:
        identity["code"] = code
    return digest(identity, length=ID_LENGTH)
