"""The reference's SqueezeNet run in plain torch, without segbench: what is the house worth?

python benchmarks/naive_transfer.py DATA WEIGHTS [--epochs 40] [--seed 0]

DATA holds voc2012_2007/VOCdevkit, WEIGHTS squeezenet1_1_features.safetensors. Frozen trunk as
torchvision has it, photographs squashed to 321x321, features once with their mirror images, 1x1
score layers on standardised features of strides 4, 8 and 16, summed from coarse to fine by plain
bilinear interpolation (segbench's `alignment: stretch`), cross-entropy at 161x161, Adam 1e-3 with
polynomial decay, batch 16.
Letters: N images, C classes.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import squeezenet1_1

SIDE, LOSS_SIDE, BATCH, CLASSES, VOID = 321, 161, 16, 21, 255
STAGES = {4: 128, 7: 256, 12: 512}  # modules of `features` and their channels: strides 4, 8, 16
MEAN = torch.tensor([123.68, 116.779, 103.939])[:, None, None]
LISTS = Path(__file__).parents[1] / "datasets" / "lists"


def main() -> None:
    """Train and print mean IoU and pixel accuracy on the validation images, in per cent."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    trunk = squeezenet1_1(weights=None).features.eval()
    trunk.load_state_dict(
        {
            name.removeprefix("features."): tensor
            for name, tensor in load_file(
                options.weights / "squeezenet1_1_features.safetensors"
            ).items()
        }
    )
    root = options.data / "voc2012_2007" / "VOCdevkit" / "VOC2012"
    head = Head()
    train(head, *features(trunk, root, "train"), epochs=options.epochs)
    mean_iou, accuracy = score(head, *features(trunk, root, "val"))
    print(f"mean IoU {mean_iou:.2f}, pixel accuracy {accuracy:.2f}")


class Head(nn.Module):
    """Score layers that start at zero, on standardised features; scores are summed."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(c, affine=False) for c in STAGES.values())
        self.scores = nn.ModuleList(nn.Conv2d(c, CLASSES, 1) for c in STAGES.values())
        for parameter in self.scores.parameters():
            nn.init.zeros_(parameter)

    def forward(self, maps: list[Tensor], side: int) -> Tensor:
        """Return (N, C, side, side) scores."""
        layers = zip(self.scores, self.norms, maps, strict=True)
        fine, middle, coarse = (score(norm(m)) for score, norm, m in layers)
        return _resized(fine + _resized(middle + _resized(coarse, middle), fine), side)


def _resized(scores: Tensor, like: Tensor | int) -> Tensor:
    size = like if isinstance(like, int) else like.shape[-2:]
    return F.interpolate(scores, size, mode="bilinear", align_corners=False)


@torch.inference_mode()
def features(trunk: nn.Sequential, root: Path, split: str) -> tuple[list[Tensor], list[Tensor]]:
    """Return float16 maps (N, 2, D, h, w) of images and mirror images, and labels (H, W)."""
    maps: list[list[Tensor]] = [[] for _ in STAGES]
    labels = []
    for name in (LISTS / f"voc2012_2007_{split}.txt").read_text().split():
        photograph = Image.open(root / "JPEGImages" / f"{name}.jpg").convert("RGB")
        squashed = np.asarray(photograph.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
        image = torch.from_numpy(squashed.copy()).permute(2, 0, 1).float() - MEAN
        here, found = torch.stack([image, image.flip(-1)]), []
        for index, layer in enumerate(trunk):
            here = layer(here)
            if index in STAGES:
                found.append(here.half())
        for stage, feature_map in zip(maps, found, strict=True):
            stage.append(feature_map)
        label = np.asarray(Image.open(root / "SegmentationClass" / f"{name}.png"))
        labels.append(torch.from_numpy(label.copy()))
    return [torch.stack(stage) for stage in maps], labels


def train(head: Head, maps: list[Tensor], labels: list[Tensor], *, epochs: int) -> None:
    """Train the head; an epoch sees each image and each mirror image once, but for the last few."""
    size = LOSS_SIDE, LOSS_SIDE
    small = torch.cat(
        [F.interpolate(label[None, None].float(), size, mode="nearest-exact") for label in labels]
    )
    small = small[:, 0].long()
    batches = 2 * len(labels) // BATCH
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-3)
    steps = epochs * batches
    decay = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=steps, power=0.9)
    for _ in range(epochs):
        for chosen in torch.randperm(2 * len(labels))[: batches * BATCH].split(BATCH):
            image, mirrored = chosen // 2, chosen % 2
            target = small[image]
            target = torch.where((mirrored == 1)[:, None, None], target.flip(-1), target)
            scores = head([stage[image, mirrored].float() for stage in maps], LOSS_SIDE)
            loss = F.cross_entropy(scores, target, ignore_index=VOID)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            decay.step()


@torch.inference_mode()
def score(head: Head, maps: list[Tensor], labels: list[Tensor]) -> tuple[float, float]:
    """Return mean IoU and pixel accuracy in per cent, at the labels' own size."""
    head.eval()
    confusion = torch.zeros(CLASSES, CLASSES, dtype=torch.int64)
    for index, label in enumerate(labels):
        scores = head([stage[index, :1].float() for stage in maps], SIDE)
        full = F.interpolate(scores, label.shape, mode="bilinear", align_corners=False)
        known = label != VOID
        pairs = label[known].long() * CLASSES + full[0].argmax(0)[known]
        confusion += pairs.bincount(minlength=CLASSES**2).view(CLASSES, CLASSES)
    right = confusion.diag()
    union = confusion.sum(0) + confusion.sum(1) - right
    return 100 * float((right / union).mean()), 100 * float(right.sum() / confusion.sum())


if __name__ == "__main__":
    main()
