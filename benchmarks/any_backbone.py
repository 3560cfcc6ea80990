"""Which networks can be backbones: cards for all of torchvision's classifiers and families of timm's.

    python benchmarks/any_backbone.py torchvision timm > results/any_backbone.md   # an hour on two cores
    python benchmarks/any_backbone.py --shapes torchvision timm                    # minutes: no gradients
    python benchmarks/any_backbone.py --only swin_t torchvision

For each network a card is written as `segbench new backbone NAME` does and checked as `segbench check` does;
the table says how its places are known, or why the network cannot be one. --shapes leaves out the check by
gradients of declared places. The largest network of a family of timm's is built without numbers.
"""

import argparse
from collections.abc import Iterator
from typing import NamedTuple
from unittest import mock

from torchvision.models import list_models

from segbench.errors import SegbenchError
from segbench.models import declared, named, trunk
from segbench.schema.cards import BackboneCard
from segbench.schema.torchvision_weights import with_only_weights, with_published_weights

# Family -> its smallest network, and its largest.
FAMILIES = {
    "DINOv2": ("vit_small_patch14_dinov2", "vit_giant_patch14_dinov2"),
    "DINOv3 ViT": ("vit_small_patch16_dinov3", "vit_7b_patch16_dinov3"),
    "EVA-02": ("eva02_tiny_patch14_224", "eva02_enormous_patch14_clip_224"),
    "ViT": ("vit_tiny_patch16_224", "vit_huge_patch14_224"),
    "DeiT": ("deit_tiny_patch16_224", "deit3_huge_patch14_224"),
    "BEiT v2": ("beitv2_base_patch16_224", "beitv2_large_patch16_224"),
    "CLIP ViT": ("vit_base_patch32_clip_224", "vit_gigantic_patch14_clip_224"),
    "SigLIP": ("vit_base_patch16_siglip_224", "vit_so400m_patch14_siglip_224"),
    "ConvNeXt": ("convnext_atto", "convnext_xxlarge"),
    "ConvNeXt v2": ("convnextv2_atto", "convnextv2_huge"),
    "Swin": ("swin_tiny_patch4_window7_224", "swin_large_patch4_window12_384"),
    "Swin v2": ("swinv2_tiny_window8_256", "swinv2_large_window12to24_192to384"),
    "MaxViT": ("maxvit_tiny_tf_224", "maxvit_xlarge_tf_512"),
    "EfficientNet": ("efficientnet_b0", "efficientnet_b5"),
    "EfficientNet v2": ("efficientnetv2_rw_t", "efficientnetv2_xl"),
    "RegNet": ("regnety_002", "regnety_2560"),
    "ResNet": ("resnet18", "resnet152"),
    "ResNet-D": ("resnet10t", "resnet200d"),
    "ResNet-RS": ("resnetrs50", "resnetrs420"),
    "ResNeXt": ("resnext26ts", "resnext101_64x4d"),
    "ECA-NFNet": ("eca_nfnet_l0", "eca_nfnet_l3"),
    "MobileNet v3": ("mobilenetv3_small_050", "mobilenetv3_large_150d"),
    "MobileNet v4": ("mobilenetv4_conv_small", "mobilenetv4_hybrid_large"),
    "HRNet": ("hrnet_w18_small", "hrnet_w64"),
    "PVT v2": ("pvt_v2_b0", "pvt_v2_b5"),
    "DenseNet": ("densenet121", "densenet264d"),
    "FastViT": ("fastvit_t8", "fastvit_ma36"),
    "EfficientViT": ("efficientvit_b0", "efficientvit_l3"),
    "PoolFormer": ("poolformer_s12", "poolformer_m48"),
    "CAFormer": ("caformer_s18", "caformer_b36"),
    "Hiera": ("hiera_tiny_224", "hiera_huge_224"),
    "MViT v2": ("mvitv2_tiny", "mvitv2_large"),
    "RepVGG": ("repvgg_a0", "repvgg_d2se"),
    "InceptionNeXt": ("inception_next_atto", "inception_next_base"),
    "TinyViT": ("tiny_vit_5m_224", "tiny_vit_21m_512"),
}


class Found(NamedTuple):
    """How a network did: its strides, how its places are known, or why it cannot be a backbone."""

    name: str
    strides: str
    places: str
    problem: str


def main() -> None:
    """Print a table for each library that is named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("libraries", nargs="+", choices=("torchvision", "timm"))
    parser.add_argument("--shapes", action="store_true", help="no gradients")
    parser.add_argument("--only", action="append", help="networks of these names alone")
    given = parser.parse_args()
    for library in given.libraries:
        print(f"## {library}\n\n| network | strides | places | problem |\n|---|---|---|---|")
        right = total = 0
        for name, only_shapes in _networks(library):
            if given.only and name not in given.only:
                continue
            found = tried(f"{library}:{name}", only_shapes=only_shapes or given.shapes)
            right, total = right + (not found.problem), total + 1
            print(f"| {' | '.join(found)} |", flush=True)
        print(f"\n{right} of {total} can be backbones.\n")


def _networks(library: str) -> Iterator[tuple[str, bool]]:
    if library == "torchvision":
        import torchvision.models

        for name in list_models(module=torchvision.models):
            yield name, False
        return
    for smallest, largest in FAMILIES.values():
        yield smallest, False
        yield largest, True


def tried(name: str, *, only_shapes: bool) -> Found:
    """Return how a network of a library did; only_shapes: without looking where gradients lie."""
    most = 0 if only_shapes else declared.MOST_PARAMETERS_CHECKED
    with (
        mock.patch.object(named, "MOST_PARAMETERS_CHECKED", most),
        mock.patch.object(trunk, "MOST_PARAMETERS_CHECKED", most),
    ):
        try:
            data, problems = with_published_weights(
                with_only_weights(named.named_card(name, with_weights=False))
            )
            if problems:
                return Found(name, "", "", "; ".join(problems.values()))
            card = BackboneCard.model_validate(data)
            trunk.verify_card(card)
        except (SegbenchError, ValueError, NotImplementedError, RuntimeError) as error:
            return Found(name, "", "", str(error).splitlines()[0].replace("|", "/")[:200])
    places = "followed" if not card.is_declared else "declared, shapes alone"
    if card.is_declared and not only_shapes:
        places = f"declared, offsets {', '.join(f'{s.offset:g}' for s in card.stages)}"
    size = f"; {card.fixed_side} px alone" if card.fixed_side else ""
    size += f"; multiples of {card.multiple_of} px" if card.multiple_of else ""
    return Found(name, ", ".join(map(str, card.strides)), places + size, "")


if __name__ == "__main__":
    main()
