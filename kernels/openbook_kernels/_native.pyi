"""The compiled module. Addresses are of memory that the caller keeps; openbook's docs/native.md says their shapes."""

from collections.abc import Sequence
from typing import Any

class Matrix:
    rows: int
    columns: int
    kind: str
    nbytes: int
    @staticmethod
    def blocks(kind: str, rows: Any, columns: int) -> Matrix: ...
    @staticmethod
    def floats(kind: str, values: Any) -> Matrix: ...
    def row(self, row: int, out: int) -> None: ...

class Linear:
    def __init__(self, matrix: Matrix, bias: Any = None) -> None: ...

class Norm:
    def __init__(self, weight: Any, bias: Any = None, epsilon: float = 1e-5, layer: bool = False) -> None: ...

class FeedForward:
    def __init__(self, up: Linear, down: Linear, gate: Linear | None = None, act: int = 0) -> None: ...

class Experts:
    experts: list[FeedForward]
    router: Linear
    balance: list[float]
    active: int
    renormalise: bool
    noisy: bool
    shared: FeedForward | None
    shared_gate: Linear | None

class Layer:
    place: int
    attention_norm: Norm
    feed_forward_norm: Norm | None
    attention_post_norm: Norm | None
    feed_forward_post_norm: Norm | None
    query_norm: Norm | None
    key_norm: Norm | None
    norm_projection: bool
    norm_after_rope: bool
    query: Linear
    key: Linear | None
    value: Linear | None
    out: Linear
    slot: int
    heads: int
    kv_heads: int
    dim: int
    causal: bool
    window: int
    pinned: int
    chunk: int
    scale: float
    cap: float
    sinks: list[float]
    rope: int
    bias: int
    feed_forward: FeedForward | None
    experts: Experts | None

class Model:
    width: int
    vocabulary: int
    embedding: Matrix
    embedding_scale: float
    embedding_norm: Norm | None
    final_norm: Norm | None
    head: Linear | None
    logit_scale: float
    logit_cap: float
    def add_layer(self, layer: Layer) -> None: ...

class Team:
    threads: int
    def __init__(self, threads: int) -> None: ...

class Keys:
    def __init__(self, store: int) -> None: ...
    def add_slot(self, group: int, heads: int, dim: int, parts: Sequence[Sequence[int]]) -> None: ...
    def add_base(self, parts: Sequence[Sequence[Sequence[int]]]) -> int: ...
    def begin(self, group: int, row: int, base: int, column: int, count: int, position: int) -> None: ...
    def hold(
        self,
        group: int,
        positions: int,
        rows: int,
        columns: int,
        stride: int,
        next: int,
        blocks: int = 0,
        per_row: int = 0,
        block: int = 0,
    ) -> None: ...
    def place(self, group: int, columns: int, start: int, rows: int, count: int, block: int = 0) -> None: ...

class Part:
    def __init__(
        self,
        rows: int,
        columns: int,
        tokens: int,
        positions: int,
        keep: Sequence[int],
        logits: int = 0,
        hidden: int = 0,
        tapped: int = 0,
        keys: Keys | None = None,
    ) -> None: ...

class Engine:
    def __init__(self, model: Model, team: Team, isa: str = "") -> None: ...
    def rope(self, index: int, data: int, rows: int, width: int) -> None: ...
    def bias(self, index: int, data: int, rows: int, zero: int) -> None: ...
    def added(self, data: int, rows: int, width: int) -> None: ...
    def forward(self, parts: Sequence[Part], store: int) -> None: ...
    def ready(self, tokens: int, positions: int, given: bool, next: int, rows: int, columns: int) -> int: ...
    def commit(self, parts: Sequence[Part]) -> None: ...
    def read_weights(self) -> tuple[int, float]: ...

class Lists:
    def __init__(
        self,
        width: int,
        count: int,
        mean: int,
        centres: int,
        of_centres: tuple[int, int],
        starts: int,
        rows: int,
        of_keys: tuple[int, int],
        isa: str = "",
    ) -> None: ...
    def candidates(self, q: int, queries: int, probes: int, count: int, live: int, found: int) -> None: ...

def distances(
    q: int,
    queries: int,
    width: int,
    rows: int,
    count: int,
    segments: Sequence[tuple[int, int]],
    out: int,
    isa: str = "",
) -> None: ...
def isas() -> list[str]: ...
def mix(
    team: Team, isa: str, scores: int, rows: int, count: int, stride: int, log_w: Sequence[float], out: int
) -> list[float]: ...
def normalisers(team: Team, isa: str, scores: int, rows: int, count: int, stride: int) -> list[float]: ...
def bandwidth(team: Team, isa: str = "", bytes: int = ..., runs: int = 5) -> float: ...
