"""What a person may say of λ, the share of neighbours: apart from how they are looked up, which imports more."""

from __future__ import annotations

from typing import Literal

from openbook.errors import Fault

LambdaKnn = float | Literal["auto"]


def check_lambda(value: LambdaKnn) -> LambdaKnn:
    """Raise `Fault` for a λ that is neither `auto` nor a share."""
    if value != "auto" and not (isinstance(value, int | float) and 0 <= value < 1):
        raise Fault(f"lambda_knn is {value}; it must be from 0 to below 1, or auto")
    return value
