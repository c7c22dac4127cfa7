"""Accuracy measures, from scikit-learn where it has them."""

import numpy as np


def auroc(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Area under the ROC curve; None where only one class is present. Any shape; both are flattened."""
    from sklearn.metrics import roc_auc_score  # here, since it takes a second that only an evaluation needs

    labels, scores = np.ravel(labels), np.ravel(scores)
    if labels.min() == labels.max():
        return None
    return float(roc_auc_score(labels, scores))
