"""All methods that a single model can be of. A new one is a file and a line here."""

from admodels.core.method import Method
from admodels.efficientad.method import EfficientAd
from admodels.methods.fapm import Fapm
from admodels.methods.fastflow import FastFlow
from admodels.methods.padim import Padim
from admodels.methods.padim_isvd import PadimIsvd
from admodels.methods.patchcore import PatchCore
from admodels.methods.reverse_distillation import ReverseDistillation

METHODS: dict[str, type[Method]] = {
    "fapm": Fapm,
    "padim_isvd": PadimIsvd,
    "padim": Padim,
    "patchcore": PatchCore,
    "efficientad": EfficientAd,
    "fastflow": FastFlow,
    "reverse_distillation": ReverseDistillation,
}
