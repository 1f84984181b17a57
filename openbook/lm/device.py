"""Where a model runs and how precisely: what names and defaults mean on this machine."""

from __future__ import annotations

import torch

from openbook.errors import Fault


def default_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def default_dtype(device: torch.device) -> torch.dtype:
    """bf16 on a GPU and on CPUs that multiply bf16 natively; elsewhere fp32, which is faster there."""
    if device.type == "cuda":
        return torch.bfloat16
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


def device_named(name: str | None) -> torch.device:
    """The device of that name, None for the default; a `Fault` names one that does not exist here."""
    if name is None:
        return default_device()
    try:
        device = torch.device(name)
        torch.ones(1, device=device).tolist()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        words = str(error).splitlines()[:1] or [type(error).__name__]
        raise Fault(f"there is no device {name!r} here ({words[0][:160]}); leave it out, or give cpu") from error
    return device


def dtype_named(precision: str, device: torch.device) -> torch.dtype:
    """What `auto`, `bf16` or `fp32` is on that device."""
    known = {"auto": default_dtype(device), "bf16": torch.bfloat16, "fp32": torch.float32}
    if precision not in known:
        raise Fault(f"no precision is called {precision!r}; known are {', '.join(known)}")
    return known[precision]
