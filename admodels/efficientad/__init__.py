"""EfficientAD: a student that learns to imitate a teacher, step by step within a budget."""

from admodels.efficientad.method import EfficientAd

__all__ = ["EfficientAd"]
