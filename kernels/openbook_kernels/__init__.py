"""The native kernels of openbook: quantised transformers on CPUs. See docs/native.md of openbook."""

from openbook_kernels._native import (
    Engine,
    Experts,
    FeedForward,
    Keys,
    Layer,
    Linear,
    Lists,
    Matrix,
    Model,
    Norm,
    Part,
    Team,
    bandwidth,
    distances,
    isas,
    mix,
    normalisers,
)

__version__ = "0.1.0"  # raised when numbers come out different: caches of keys and values carry it

__all__ = [
    "Engine",
    "Experts",
    "FeedForward",
    "Keys",
    "Layer",
    "Linear",
    "Lists",
    "Matrix",
    "Model",
    "Norm",
    "Part",
    "Team",
    "bandwidth",
    "distances",
    "isas",
    "mix",
    "normalisers",
]
