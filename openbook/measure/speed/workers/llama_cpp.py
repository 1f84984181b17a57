"""llama.cpp, through the C functions that its Python package binds: its own batches, its own key/value memory.

Greedy decoding takes the largest logit with numpy, which is quicker than llama.cpp's sampler; prefill asks for the
logits of the last token alone, as its own bench does.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from typing import Any

import llama_cpp as c
import numpy as np

# ggml's own numbers of the formats it quantises to, as llama.h has them.
FORMATS = {"Q4_0": c.LLAMA_FTYPE_MOSTLY_Q4_0, "Q8_0": c.LLAMA_FTYPE_MOSTLY_Q8_0, "BF16": c.LLAMA_FTYPE_MOSTLY_BF16}


def _quiet(level: int, text: bytes, data: Any) -> None:
    """llama.cpp writes pages about every model it opens."""


_QUIET = c.llama_log_callback(_quiet)  # kept: llama.cpp holds no reference
c.llama_log_set(_QUIET, ctypes.c_void_p(0))
c.llama_backend_init()


def quantize(source: str, target: str, kind: str, threads: int) -> bool:
    """Write the file once more in another format, by llama.cpp's own quantiser with its defaults."""
    wanted = c.llama_model_quantize_default_params()
    wanted.ftype, wanted.nthread, wanted.allow_requantize = FORMATS[kind], threads, True
    if c.llama_model_quantize(source.encode(), target.encode(), wanted) != 0:
        raise RuntimeError(f"llama.cpp could not write {source} as {kind}")
    return True


def open(
    race: str,
    model: str,
    prompts: Sequence[Sequence[int]],
    new: int,
    threads: int,
    flash: bool = True,
    unified: bool = False,
    repack: bool = True,
) -> Race:
    """The model, ready for a race over these prompts (token ids), `new` tokens decoded after each."""
    engine = Engine(model, prompts, new, threads, flash, unified, repack)
    return {"decode": Decode, "prefill": Prefill}[race](engine, prompts, new)


class Engine:
    """A model, a context with room for the prompts and what follows, and one batch."""

    def __init__(
        self,
        path: str,
        prompts: Sequence[Sequence[int]],
        new: int,
        threads: int,
        flash: bool,
        unified: bool,
        repack: bool,
    ) -> None:
        wanted = c.llama_model_default_params()
        wanted.use_extra_bufts = repack
        self.model = c.llama_model_load_from_file(path.encode(), wanted)
        if not self.model:
            raise RuntimeError(f"llama.cpp could not load {path}")
        self.vocabulary = c.llama_vocab_n_tokens(c.llama_model_get_vocab(self.model))
        longest = max(map(len, prompts))
        room = c.llama_context_default_params()
        room.n_ctx = len(prompts) * -(-(longest + new + 1) // 256) * 256
        room.n_batch = room.n_ubatch = max(512, longest)
        room.n_seq_max = len(prompts)
        room.n_threads = room.n_threads_batch = threads
        room.flash_attn_type = c.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash else c.LLAMA_FLASH_ATTN_TYPE_DISABLED
        room.kv_unified, room.no_perf = unified, True
        self.context = c.llama_init_from_model(self.model, room)
        if not self.context:
            raise RuntimeError("llama.cpp could not make a context with these settings")
        self.memory = c.llama_get_memory(self.context)
        self.batch = c.llama_batch_init(room.n_batch, 0, 1)

    def __del__(self) -> None:
        if getattr(self, "batch", None) is not None:
            c.llama_batch_free(self.batch)
        if getattr(self, "context", None):
            c.llama_free(self.context)
        if getattr(self, "model", None):
            c.llama_model_free(self.model)

    def step(
        self, tokens: Sequence[int], positions: Sequence[int], rows: Sequence[int], wanted: Sequence[bool]
    ) -> None:
        """Run these tokens, each at its position of its row, and wait for them; keep the logits of those wanted."""
        batch = self.batch
        batch.n_tokens = len(tokens)
        for i, (token, position, row, keep) in enumerate(zip(tokens, positions, rows, wanted, strict=True)):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position, 1, keep
            batch.seq_id[i][0] = row
        if c.llama_decode(self.context, batch) != 0:
            raise RuntimeError("llama_decode failed")
        c.llama_synchronize(self.context)

    def text(self, tokens: Sequence[int], row: int) -> int:
        """Read a text into a row from position 0; the likeliest next token."""
        last = len(tokens) - 1
        self.step(tokens, range(len(tokens)), [row] * len(tokens), [i == last for i in range(len(tokens))])
        return self.likeliest(last)

    def likeliest(self, index: int) -> int:
        """The largest logit behind token `index` of the last batch."""
        logits = np.ctypeslib.as_array(c.llama_get_logits_ith(self.context, index), shape=(self.vocabulary,))
        return int(logits.argmax())


class Race:
    """A race of one engine over its prompts; `facts` say what runs."""

    def __init__(self, engine: Engine, prompts: Sequence[Sequence[int]], new: int) -> None:
        self.engine, self.prompts, self.new = engine, prompts, new
        system = c.llama_print_system_info().decode()
        self.facts = {"engine": f"llama-cpp-python {c.__version__}", "system": system}
        self.ready()

    def ready(self) -> None:
        """What is done once, before any run."""

    def run(self) -> dict[str, Any]:
        """One timed run."""
        raise NotImplementedError


class Decode(Race):
    """Tokens a second, all rows together, one greedy token a row and step."""

    def ready(self) -> None:
        self.first = [self.engine.text(prompt, row) for row, prompt in enumerate(self.prompts)]

    def run(self) -> dict[str, Any]:
        """From the read prompts on; what an earlier run wrote is forgotten first."""
        for row, prompt in enumerate(self.prompts):
            c.llama_memory_seq_rm(self.engine.memory, row, len(prompt), -1)
        rows, wanted = range(len(self.prompts)), [True] * len(self.prompts)
        tokens, written = list(self.first), [[token] for token in self.first]
        began = time.perf_counter()
        for done in range(self.new):
            self.engine.step(tokens, [len(prompt) + done for prompt in self.prompts], rows, wanted)
            tokens = [self.engine.likeliest(row) for row in rows]
            for row, token in enumerate(tokens):
                written[row].append(token)
        seconds = time.perf_counter() - began
        return {"value": self.new * len(self.prompts) / seconds, "tokens": written[0]}


class Prefill(Race):
    """Tokens of one prompt read a second."""

    def run(self) -> dict[str, Any]:
        """Read the prompt into an empty memory."""
        c.llama_memory_clear(self.engine.memory, True)
        began = time.perf_counter()
        token = self.engine.text(self.prompts[0], 0)
        seconds = time.perf_counter() - began
        return {"value": len(self.prompts[0]) / seconds, "tokens": [token]}
