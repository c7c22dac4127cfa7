"""How long an EfficientAD trains: the paper's 70,000 steps where there is time for them."""

from admodels.training.budget import Schedule

LONG = 10_000  # steps from which on the paper's own schedule is followed
N_STATISTICS = 64  # pictures for the teacher's mean and deviation in a short training: 200,000 vectors at 256×256
KEPT_RATIO, MAX_KEPT = 0.1, 32  # pictures that are not trained on and set the quantiles
MAX_WHITENED = 40  # pictures trained on whose differences say what is usual: 125,000 vectors at 256×256


def n_kept(n: int) -> int:
    """Of n pictures, how many are not trained on and set the quantiles."""
    return min(max(2, round(KEPT_RATIO * n)), MAX_KEPT)


def n_scored(n: int) -> int:
    """Of n pictures, how many are scored after the training, before the fit's held-out ones."""
    return 2 * n_kept(n) + min(n, MAX_WHITENED)


SCHEDULE = Schedule(
    cuda_steps=70_000,
    cpu_minutes=10.0,
    long=LONG,
    # More steps of a short training teach the student to imitate the teacher on defects too. On Magnetic Tile image
    # AUROC was 0.921 after 1,577, 0.915 after 3,304; on PIPED's hardest kind it falls from 60 steps on.
    short_steps=1_500,
    n_described=N_STATISTICS,
    n_scored=n_scored,
)
