"""TensorRT and TensorRT-RTX behind one adapter: stage graphs -> engines -> a runner whose tensors stay on the GPU."""

from .backend import load, why_not
from .builder import build
from .options import BuildOptions
from .refitting import refit
from .runner import TensorRTRunner

__all__ = ["BuildOptions", "TensorRTRunner", "build", "load", "refit", "why_not"]
