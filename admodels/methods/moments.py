"""Mean and covariance at every position, from a stream of vectors: sums in memory that does not grow.

P is the number of positions, d the length of a vector, n a number of pictures.
"""

import torch
from torch import Tensor

IMAGES_PER_UPDATE = 64  # the products of so many pictures are added up at once: fewer passes over the covariances


class Moments:
    """Sums of vectors and of their products about a first guess of the mean, about which they do not cancel.

    Where the pictures are cut into batches makes no difference: every sum is over `IMAGES_PER_UPDATE` of them.

    Attributes:
        n_images: all that came.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self.device, self.dtype = device, dtype
        self.n_images = 0
        self.n_waiting = 0
        self.rows: Tensor | None = None  # (P, IMAGES_PER_UPDATE, d): those that wait come first
        self.reference: Tensor | None = None  # (P, d)
        self.total: Tensor | None = None  # (P, d)
        self.products: Tensor | None = None  # (P, d, d)

    def resume(self, mean: Tensor, products: Tensor, n_images: int) -> None:
        """Go on from so many pictures: from their mean (P, d) and their products about it (P, d, d), which are kept."""
        self.reference, self.total, self.products = mean.clone(), torch.zeros_like(mean), products
        self.n_images = n_images

    def add(self, x: Tensor) -> None:
        """Take in vectors (n, P, d)."""
        if self.rows is None:
            # Allocated but not touched: a small set never fills it, and untouched pages cost nothing.
            size = (x.shape[1], IMAGES_PER_UPDATE, x.shape[2])
            self.rows = torch.empty(size, dtype=self.dtype, device=self.device)
        self.n_images += len(x)
        while len(x):
            if self.n_waiting == IMAGES_PER_UPDATE:
                self.flush()
            taken = x[: IMAGES_PER_UPDATE - self.n_waiting]
            self.rows[:, self.n_waiting : self.n_waiting + len(taken)].copy_(taken.transpose(0, 1))
            self.n_waiting += len(taken)
            x = x[len(taken) :]

    def flush(self) -> None:
        """Add what waits to the sums."""
        if not self.n_waiting:
            return
        rows = self.rows[:, : self.n_waiting]  # (P, n, d)
        if self.reference is None:
            self.reference = rows.mean(1)
            self.total = torch.zeros_like(self.reference)
            self.products = rows.new_zeros(*self.reference.shape, rows.shape[2])
        rows -= self.reference[:, None]
        self.total += rows.sum(1)
        self.products.baddbmm_(rows.mT, rows)
        self.n_waiting = 0

    @property
    def n_positions(self) -> int:
        """P."""
        return len(self.rows if self.reference is None else self.reference)

    def mean(self, positions: slice = slice(None)) -> Tensor:
        """The mean (p, d) at some positions, of all that was flushed."""
        return self.reference[positions] + self.total[positions] / self.n_images

    def covariance(self, positions: slice) -> Tensor:
        """The sample covariance (p, d, d) at some positions, of all that was flushed; zeros for one picture."""
        shift, n = self.total[positions] / self.n_images, self.n_images
        return (self.products[positions] - n * shift[:, :, None] * shift[:, None]) / max(n - 1, 1)
