"""The ways of foretelling text that come with openbook; importing this registers them, the first being the rod."""

from openbook.measure.ways import alone

__all__ = ["alone"]
