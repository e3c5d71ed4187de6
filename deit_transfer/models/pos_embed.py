"""Resize position embeddings between patch grids.

Shapes: T token positions (class, distillation), an h x w grid of patches, D dimensions.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def split_positions(positions: Tensor, *, num_tokens: int) -> tuple[Tensor, Tensor]:
    """Split position embeddings into the tokens' own and a square patch grid.

    Args:
        positions: (1, T + h * h, D).
        num_tokens: T, how many leading positions belong to tokens.

    Returns:
        The tokens' positions (1, T, D) and the patches' positions (1, h, h, D).

    Raises:
        ValueError: The patch positions do not form a square grid.
    """
    tokens, patches = positions[:, :num_tokens], positions[:, num_tokens:]
    side = math.isqrt(patches.shape[1])
    if side < 1 or side * side != patches.shape[1]:
        raise ValueError(f"{patches.shape[1]} patch positions do not form a square grid")
    return tokens, patches.unflatten(1, (side, side))


def resize_grid(grid: Tensor, *, new_grid: tuple[int, int]) -> Tensor:
    """Interpolate the patches' positions bicubically, as the paper does for a new resolution.

    Bilinear would shrink the vectors' norm (paper, section 5, "Fine-tuning at different
    resolution"); no antialiasing, as in the authors' code. The same grid comes back untouched.

    Args:
        grid: (1, h, w, D).
        new_grid: Rows and columns wanted.

    Returns:
        (1, h', w', D), in the dtype of `grid`.
    """
    if (grid.shape[1], grid.shape[2]) == new_grid:
        return grid
    channels_first = grid.permute(0, 3, 1, 2).to(torch.float32)  # (1, D, h, w)
    resized = F.interpolate(channels_first, size=new_grid, mode="bicubic", align_corners=False)
    return resized.permute(0, 2, 3, 1).to(grid.dtype)  # (1, h', w', D)
