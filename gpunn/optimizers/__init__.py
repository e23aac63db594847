"""Optimizers: the update rule E8 and its variants, one per file."""

from .adagrad import Adagrad
from .adam import Adam
from .adamw import AdamW
from .base import Optimizer, from_config, get, to_config
from .momentum import Momentum
from .nesterov import Nesterov
from .rmsprop import RMSprop
from .sgd import SGD

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Momentum",
    "Nesterov",
    "Optimizer",
    "RMSprop",
    "from_config",
    "get",
    "to_config",
]


def __dir__() -> list[str]:
    return __all__
