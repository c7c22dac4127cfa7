"""Whether a threshold set for 10 % false alarms raises 10 % on new normals, over 20 seeds.

    python -m tests.evaluation.measure_false_alarms DATA[@N] [METHOD] [n_folds=0|5] [KEY=VALUE...]

All good pictures of the data set, those of its test included, are shuffled by each seed: N (200) are given to the fit,
up to 300 of the rest are new. Shuffled, since a promise for new normals holds for normals of the same kind only: where
the test's own come from another session, they alarm more often, and that figure is printed too.
"""

import sys

import numpy as np
from rich.console import Console
from scipy.stats import betabinom, binom

import admodels
from admodels.evaluation.datasets import load_dataset
from admodels.runtime.memory import keep_freed_memory

RATE, N_FIT, MAX_NEW, N_SEEDS = 0.1, 200, 300, 20


def main(data: str, method: str = "fapm", *options: str) -> None:
    """Measure, print."""
    keep_freed_memory()
    console = Console()
    root, _, n = data.partition("@")
    dataset, n_fit = load_dataset(root), int(n or N_FIT)
    good = [*dataset.train, *(item.path for item in dataset.test if not item.is_defective)]
    given = dict(option.split("=", 1) for option in options)
    asked = given.pop("n_folds", None)
    for folds in (0, 5) if asked is None else (int(asked),):
        rates = []
        for seed in range(N_SEEDS):
            shuffled = [good[i] for i in np.random.default_rng(seed).permutation(len(good))][: n_fit + MAX_NEW]
            detector = admodels.create(method, **given)
            detector.fit(shuffled[:n_fit], false_alarm_rate=RATE, n_folds=folds, seed=seed)
            alarms = [p.is_anomalous for p in detector.predict_batch(shuffled[n_fit:])]
            rates.append(float(np.mean(alarms)))
        n_new, n_held_out = len(shuffled) - n_fit, len(detector.calibration_.scores)
        rank = np.ceil((n_held_out + 1) * (1 - RATE))
        # The threshold is one of the held-out scores: over splits the true rate follows a beta distribution.
        single = betabinom.interval(0.95, n_new, n_held_out + 1 - rank, rank)
        pooled = binom.interval(0.95, n_new, RATE)
        n_inside = sum(single[0] <= rate * n_new <= single[1] for rate in rates)
        binomial, beta = (f"{low / n_new:.1%} to {high / n_new:.1%}" for low, high in (pooled, single))
        console.print(
            f"{method}, {folds or 'no'} folds: asked {RATE:.0%}, mean of {N_SEEDS} seeds {np.mean(rates):.2%} of "
            f"{n_new} new normals (binomial 95 % interval around 10 %: {binomial}); "
            f"single seeds {min(rates):.1%} to {max(rates):.1%}, {n_inside} of {N_SEEDS} inside the 95 % interval of a "
            f"threshold from {n_held_out} held-out normals ({beta})",
            soft_wrap=True,
        )
    detector = admodels.create(method, **given).fit(dataset.train, false_alarm_rate=RATE)
    rest = [item.path for item in dataset.test if not item.is_defective]
    alarms = [p.is_anomalous for p in detector.predict_batch(rest)]
    console.print(f"fitted on all {len(dataset.train)}, the test's own {len(rest)} normals: {np.mean(alarms):.1%}")


if __name__ == "__main__":
    main(*sys.argv[1:])
