"""`weights: torchvision:NAME` on a backbone card: the table behind it, and what a card becomes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
import torchvision_table

from segbench.commands import listing
from segbench.errors import CardError
from segbench.models.trunk import call_builder, verify_card
from segbench.schema.cards import BackboneCard
from segbench.schema.catalog import Catalog, built_in_root, read_card
from segbench.schema.torchvision_weights import TABLE_PATH

BUILT_IN = sorted((built_in_root() / "backbones").glob("*.yaml"))
MODELS = torchvision.models.list_models(module=torchvision.models)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CARD = """\
name: {name}
title: a card
builder: torchvision.models:{model}
stages: [{{name: s32, module: features, stride: 32, channels: 576}}]
licence: BSD-3-Clause
source: {{paper: none}}
"""


def _card(folder: Path, model: str, *lines: str, name: str = "own") -> BackboneCard:
    path = folder / "backbones" / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(CARD.format(name=name, model=model) + "\n".join((*lines, "")))
    return read_card(path, BackboneCard, catalog=Catalog((folder, built_in_root())))


def test_the_table_is_what_the_installed_torchvision_says():
    assert json.loads(TABLE_PATH.read_text()) == torchvision_table.published()
    assert TABLE_PATH.read_text() == torchvision_table.as_text(torchvision_table.published())


@pytest.mark.parametrize("model", MODELS)
def test_each_name_stands_for_torchvision_s_address_digits_and_input(tmp_path, model):
    enum = torchvision.models.get_model_weights(model)
    lines = [f"  {each.name.lower()}: torchvision:{each.name}" for each in enum]
    card = _card(tmp_path, model, "weights:", *lines, "  own: torchvision:DEFAULT")
    assert card.weights["own"] == card.weights[enum.DEFAULT.name.lower()]
    for each in enum:
        found = card.weights[each.name.lower()]
        assert found.url == each.url
        assert each.url.endswith(f"-{found.sha256}.pth")
        assert found.source == f"torchvision {each}"
        own = found.input or card.input
        seen = (own.mean, own.std)
        transforms = each.transforms()
        published = (tuple(transforms.mean), tuple(transforms.std))
        assert seen == (((0.5,) * 3,) * 2 if model in {"googlenet", "inception_v3"} else published)


@pytest.mark.parametrize("model", ["googlenet", "inception_v3"])
def test_the_input_of_ported_networks_is_what_torchvision_s_own_network_computes_on(
    tmp_path, model
):
    card = _card(
        tmp_path, model, "arguments: {init_weights: false}", "weights: torchvision:DEFAULT"
    )
    image = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    network = call_builder(card)
    assert torch.equal(network._transform_input(image), image)  # as built, it undoes nothing
    network.transform_input = True  # what torchvision sets for its weights
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in IMAGENET)
    theirs = network._transform_input((image - mean) / std)
    torch.testing.assert_close((image - card.input.mean[0]) / card.input.std[0], theirs)
    undone = "arguments: {init_weights: false, transform_input: true}"
    kept = _card(tmp_path, model, undone, "weights: torchvision:DEFAULT").input
    assert (kept.mean, kept.std) == IMAGENET


def test_one_name_alone_is_the_card_s_default(tmp_path):
    card = _card(tmp_path, "mobilenet_v3_small", "weights: torchvision:DEFAULT")
    assert card.default_weights == "imagenet"
    assert list(card.weights) == ["imagenet"]
    weights = card.weights["imagenet"]
    assert weights.url == "https://download.pytorch.org/models/mobilenet_v3_small-047dcff4.pth"
    assert weights.sha256 == "047dcff4"
    assert weights.source == "torchvision MobileNet_V3_Small_Weights.IMAGENET1K_V1"
    assert (weights.trained_on, weights.input) == ("ImageNet-1k (ILSVRC 2012)", None)
    assert (card.input.mean, card.input.std) == IMAGENET
    stated = "input: {mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}"
    as_stated = _card(tmp_path, "mobilenet_v3_small", "weights: torchvision:DEFAULT", stated)
    assert as_stated == card


def test_another_input_on_the_card_is_for_random_weights_alone(tmp_path):
    half = "input: {mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}"
    card = _card(tmp_path, "mobilenet_v3_small", half, "weights: torchvision:DEFAULT")
    own = card.weights["imagenet"].input
    assert own is not None
    assert (own.mean, own.std) == IMAGENET
    assert card.input.mean == (0.5, 0.5, 0.5)


def test_weights_named_as_one_of_several_wait_for_a_default(tmp_path):
    lines = ("weights: {first: torchvision:IMAGENET1K_V1, second: torchvision:IMAGENET1K_V2}",)
    card = _card(tmp_path, "resnet50", *lines)
    assert card.default_weights is None
    assert [w.sha256 for w in card.weights.values()] == ["0676ba61", "11ad3fa6"]
    chosen = _card(tmp_path, "resnet50", *lines, "default_weights: second")
    assert chosen.default_weights == "second"


def test_a_card_on_a_base_takes_the_base_s_builder(tmp_path):
    path = tmp_path / "backbones" / "better.yaml"
    path.parent.mkdir()
    path.write_text("base: resnet50\nname: better\nweights: torchvision:IMAGENET1K_V2\n")
    card = read_card(path, BackboneCard, catalog=Catalog((tmp_path, built_in_root())))
    assert card.weights["imagenet"].sha256 == "11ad3fa6"
    assert card.default_weights == "imagenet"


@pytest.mark.parametrize("path", BUILT_IN, ids=lambda path: path.stem)
def test_our_own_cards_say_what_the_table_says(tmp_path, path):
    card = read_card(path, BackboneCard)
    names = {
        name: weights.source.rpartition(".")[2]
        for name, weights in card.weights.items()
        if weights.source.startswith("torchvision ")
    }
    assert len(names) == sum(weights.url is not None for weights in card.weights.values())
    (tmp_path / "backbones").mkdir()
    lines = [f"  {name}: torchvision:{wanted}\n" for name, wanted in names.items()]
    short = tmp_path / "backbones" / "short.yaml"
    default = next(iter(names), "null")
    short.write_text(
        f"base: {path.stem}\nname: short\ndefault_weights: {default}\n"
        f"weights: {'' if lines else '{}'}\n{''.join(lines)}"
    )
    found = read_card(short, BackboneCard, catalog=Catalog((tmp_path, built_in_root())))
    assert found.input == card.input
    for name in names:
        assert found.weights[name] == card.weights[name].revised(notes="")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            "weights: torchvision:IMAGNET1K_V1",
            "own.yaml:7: weights: torchvision has no weights 'IMAGNET1K_V1' for mobilenet_v3_small; "
            "did you mean 'IMAGENET1K_V1'?; it has: DEFAULT, IMAGENET1K_V1",
        ),
        ("weights: torchvision:default", "did you mean 'DEFAULT'?"),
        ("weights: {a: torchvision:V9}", "own.yaml:7: weights.a: torchvision has no weights 'V9'"),
        (
            "weights: torchvison:DEFAULT",
            "own.yaml:7: weights: expected `torchvision:DEFAULT`, another name of torchvision's, or "
            "the weights' own `key: value` lines, but got 'torchvison:DEFAULT'",
        ),
    ],
)
def test_a_wrong_name_is_told_with_its_line(tmp_path, line, sentence):
    with pytest.raises(CardError) as caught:
        _card(tmp_path, "mobilenet_v3_small", line)
    assert sentence in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_wrong_name_does_not_hide_what_else_is_wrong(tmp_path):
    with pytest.raises(CardError) as caught:
        _card(tmp_path, "resnet18", "weights: torchvision:V9", "notess: more")
    first, second = str(caught.value).splitlines()
    assert "weights: torchvision has no weights 'V9' for resnet18" in first
    assert "own.yaml:8: notess: unknown key" in second


@pytest.mark.parametrize(("model", "near"), [("mobilenet_v3_smal", "mobilenet_v3_small"),
                                             ("fcn_resnet50", "resnet50")])  # fmt: skip
def test_weights_of_what_is_no_classifier_are_refused(tmp_path, model, near):
    with pytest.raises(
        CardError, match="needs a builder among torchvision's classifiers"
    ) as caught:
        _card(tmp_path, model, "weights: torchvision:DEFAULT")
    assert f"'torchvision.models:{model}'; did you mean" in str(caught.value)
    assert near in str(caught.value)


def test_reading_such_a_card_loads_no_torch(tmp_path):
    _card(tmp_path, "mobilenet_v3_small", "weights: torchvision:DEFAULT")
    code = (
        "import sys; from pathlib import Path; from segbench.commands import listing; "
        f"table = listing.listing_of('backbones', (Path({str(tmp_path)!r}),)); "
        "assert any(row[0] == 'own' and row[3] == 'imagenet' for row in table.rows), table; "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_show_tells_what_the_name_stands_for(tmp_path):
    _card(tmp_path, "mobilenet_v3_small", "weights: torchvision:DEFAULT")
    shown = listing.description_of("own", (tmp_path,))
    assert "mobilenet_v3_small-047dcff4.pth" in shown
    assert "mean: [0.485, 0.456, 0.406]" in shown


def test_the_readme_s_backbone_card_starts_from_published_weights(tmp_path):
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (text,) = (t for t in readme.split("```yaml\n") if t.startswith("name: mobilenet_v3_small\n"))
    path = tmp_path / "backbones" / "mobilenet_v3_small.yaml"
    path.parent.mkdir()
    path.write_text(text.partition("```")[0])
    card = read_card(path, BackboneCard, catalog=Catalog((tmp_path, built_in_root())))
    assert card.weights[str(card.default_weights)].sha256 == "047dcff4"
    verify_card(card)
