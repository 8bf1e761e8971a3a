"""An independent judge of edits: a small CNN that learns the labels from pictures alone.

It knows nothing of the flow, so what it says of an edited face is not what the directions were made
from. It serves evaluation only and is no part of a bundle.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

SIZE = 64  # pixels a side; larger pictures are averaged down


class Probe(nn.Module):
    """Logits of `attributes` for pictures (B, 3, H, W) on the 0 to 1 scale."""

    def __init__(self, attributes: list[str]) -> None:
        super().__init__()
        self.attributes = attributes
        widths = (3, 32, 64, 128, 128)
        self.body = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(narrow, wide, 3, stride=2, padding=1),
                    nn.BatchNorm2d(wide),
                    nn.ReLU(),
                )
                for narrow, wide in pairwise(widths)
            )
        )
        self.head = nn.Linear(widths[-1] * (SIZE // 16) ** 2, len(attributes))

    def forward(self, pictures: Tensor) -> Tensor:
        small = F.interpolate(pictures, (SIZE, SIZE), mode="area") - 0.5
        logits: Tensor = self.head(F.dropout(self.body(small).flatten(1), 0.3, self.training))
        return logits


@torch.random.fork_rng()
def train(
    attributes: list[str],
    images: Tensor,
    signs: Tensor,
    epochs: int = 8,
    batch: int = 64,
    seed: int = 0,
) -> Probe:
    """A probe of images (uint8, (N, 3, H, W)) and their signs (N, attributes): 1, -1, or 0 for
    unknown, which teaches nothing. Shifts of up to three pixels and changes of brightness keep it
    from learning the pictures by heart. It leaves torch's own random state as it was."""
    batch = min(batch, len(images))
    torch.manual_seed(seed)
    device = images.device
    signs = signs.to(device, torch.float32)
    probe = Probe(attributes).to(device)
    generator = torch.Generator().manual_seed(seed)
    steps = epochs * (len(images) // batch)
    optimizer = torch.optim.AdamW(probe.parameters(), 2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    # the rarer sign of an attribute weighs as much as the commoner
    share = [(signs == sign).sum(0).clamp(min=1) / len(signs) for sign in (1, -1)]
    for _ in tqdm(range(steps), "probe"):
        chosen = torch.randint(len(images), (batch,), generator=generator)
        dx, dy = torch.randint(-3, 4, (2,), generator=generator).tolist()
        gain = 0.8 + 0.4 * torch.rand(batch, 1, 1, 1, generator=generator)
        shifted = images[chosen].roll((dy, dx), dims=(2, 3))
        pictures = shifted.float().add(0.5) / 256 * gain.to(device)
        target = signs[chosen]
        weight = torch.where(target == 1, 1 / share[0], 1 / share[1]) * (target != 0)
        logits = probe(pictures)
        losses = F.binary_cross_entropy_with_logits(logits, (target + 1) / 2, reduction="none")
        loss = (losses * weight).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return probe.eval().requires_grad_(False)


@torch.inference_mode()
def judge(probe: Probe, pictures: Tensor, batch: int = 256) -> Tensor:
    """Logits of many pictures on the 0 to 1 scale, clipped to it: (N, attributes)."""
    return torch.cat([probe(chunk.clamp(0, 1)) for chunk in pictures.split(batch)])


def judge_images(probe: Probe, images: Tensor, batch: int = 256) -> Tensor:
    """Logits of many images (uint8), each value at the middle of its bin: (N, attributes)."""
    return torch.cat(
        [judge(probe, chunk.float().add(0.5) / 256, batch) for chunk in images.split(batch)]
    )
