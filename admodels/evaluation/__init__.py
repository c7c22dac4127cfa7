"""How good and how fast: data sets, metrics, robustness, timing, reports."""

from admodels.evaluation.accuracy import Accuracy, Evaluation, evaluate, measure
from admodels.evaluation.datasets import (
    Dataset,
    TestImage,
    find_datasets,
    folders_of,
    labelled_images,
    left_out,
    load_dataset,
    normal_images,
    pair_masks,
)
from admodels.evaluation.metrics import fewest_errors, precision_recall_points, rate_interval, roc_points
from admodels.evaluation.paired import Outcomes, Paired, compare_verdicts, count_rows, is_same_model, mcnemar
from admodels.evaluation.rates import AtRate
from admodels.evaluation.report import (
    evaluation_page,
    mistakes,
    percent,
    rate_rows,
    rates_statement,
    robustness_rows,
    table,
)
from admodels.evaluation.timing import Quantiles, Speed, conditions, measure_network, measure_speed

__all__ = [
    "Accuracy",
    "AtRate",
    "Dataset",
    "Evaluation",
    "Outcomes",
    "Paired",
    "Quantiles",
    "Speed",
    "TestImage",
    "compare_verdicts",
    "conditions",
    "count_rows",
    "evaluate",
    "evaluation_page",
    "fewest_errors",
    "find_datasets",
    "folders_of",
    "is_same_model",
    "labelled_images",
    "left_out",
    "load_dataset",
    "mcnemar",
    "measure",
    "measure_network",
    "measure_speed",
    "mistakes",
    "normal_images",
    "pair_masks",
    "percent",
    "precision_recall_points",
    "rate_interval",
    "rate_rows",
    "rates_statement",
    "robustness_rows",
    "roc_points",
    "table",
]
