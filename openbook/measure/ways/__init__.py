"""The ways of foretelling text that come with openbook; importing this registers them, the first being the rod."""

from openbook.measure.ways import alone, ralm, knn  # isort: skip_file  (the order of the tables)

__all__ = ["alone", "knn", "ralm"]
