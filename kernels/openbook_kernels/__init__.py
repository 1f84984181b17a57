"""The native kernels of openbook: quantised transformers on CPUs. See docs/native.md of openbook."""

from openbook_kernels._native import (
    Engine,
    Experts,
    FeedForward,
    Keys,
    Layer,
    Linear,
    Matrix,
    Model,
    Norm,
    Team,
    bandwidth,
    isas,
    mix,
)

__all__ = [
    "Engine",
    "Experts",
    "FeedForward",
    "Keys",
    "Layer",
    "Linear",
    "Matrix",
    "Model",
    "Norm",
    "Team",
    "bandwidth",
    "isas",
    "mix",
]
