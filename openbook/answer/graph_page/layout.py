"""Where each entity stands: communities as discs that do not overlap, each entity in its community's disc.

The same graph and seed give the same picture: no clock, no threads, and random numbers from the seed alone.

Shapes: C discs, N entities, D relations.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]

GOLDEN = np.pi * (3 - np.sqrt(5))
ROOM, GAP = 14.0, 24.0
"""An entity takes a disc of this radius, about; discs stand this far apart."""
STEPS = 120
MOST_PUSHED = 500
"""Entities of a disc up to which they push each other; more stand in a spiral."""


def layout(discs_N: Whole, pairs_D2: Whole, weights_D: Array, seed: int = 0) -> tuple[Array, Array, Array]:
    """Places of entities `[N, 2]`, and centres `[C, 2]` and radii `[C]` of the discs.

    `discs_N` is each entity's disc, 0 to C − 1; in a disc the earlier entity stands nearer to the middle.
    """
    count = int(discs_N.max()) + 1 if len(discs_N) else 0
    sizes_C = np.bincount(discs_N, minlength=count)
    radii_C = ROOM * np.sqrt(np.maximum(sizes_C, 1)) + ROOM
    generator = np.random.default_rng(seed)
    centres_C2 = _discs(radii_C, *_between(discs_N, pairs_D2, weights_D, count), generator)
    places_N2 = np.zeros((len(discs_N), 2))
    inside_D = discs_N[pairs_D2[:, 0]] == discs_N[pairs_D2[:, 1]] if len(pairs_D2) else np.zeros(0, dtype=bool)
    for c in range(count):
        members = np.flatnonzero(discs_N == c)
        here_D = inside_D & (discs_N[pairs_D2[:, 0]] == c) if len(pairs_D2) else inside_D
        pairs = np.searchsorted(members, pairs_D2[here_D])
        places_N2[members] = centres_C2[c] + _inside(len(members), pairs, weights_D[here_D], radii_C[c] - ROOM)
    return places_N2, centres_C2, radii_C


def _between(discs_N: Whole, pairs_D2: Whole, weights_D: Array, count: int) -> tuple[Whole, Array]:
    """Pairs of discs, and the weight of the relations between them as a share of the most."""
    if not len(pairs_D2):
        return np.zeros((0, 2), np.int64), np.zeros(0)
    ends = np.sort(discs_N[pairs_D2], axis=1)
    apart = ends[:, 0] != ends[:, 1]
    keys, of = np.unique(ends[apart, 0] * count + ends[apart, 1], return_inverse=True)
    total = np.bincount(of, weights=weights_D[apart], minlength=len(keys))
    return np.stack([keys // max(count, 1), keys % max(count, 1)], axis=1), total / max(total.max(initial=0.0), 1e-9)


def _discs(radii_C: Array, pairs: Whole, shares: Array, generator: np.random.Generator) -> Array:
    """Centres: the largest in the middle of a spiral, drawn together by what joins them, then pushed apart."""
    count = len(radii_C)
    order = np.argsort(-radii_C, kind="stable")
    reach = np.sqrt(np.cumsum((radii_C[order] + GAP) ** 2))
    angle = GOLDEN * np.arange(count) + generator.uniform(0, 2 * np.pi)
    centres = np.zeros((count, 2))
    centres[order] = (reach[:, None] - reach[:1, None]) * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    centres += generator.normal(size=(count, 2))
    least = radii_C[:, None] + radii_C[None, :] + GAP
    for step in range(STEPS):
        pull = 0.15 * (1 - step / STEPS)
        centres -= pull * 0.1 * centres
        if len(pairs):
            move = pull * shares[:, None] * (centres[pairs[:, 1]] - centres[pairs[:, 0]])
            np.add.at(centres, pairs[:, 0], move)
            np.add.at(centres, pairs[:, 1], -move)
        centres += _push(centres, least)
    for _ in range(4 * STEPS):
        centres += (push := _push(centres, least))
        if not push.any():
            break
    return _scaled(centres, least)


def _push(centres: Array, least: Array) -> Array:
    """Half of what two discs lack of their distance, to each of them."""
    apart = centres[:, None] - centres[None, :]
    far = np.maximum(np.linalg.norm(apart, axis=2), 1e-6)
    lack = np.maximum(least - far, 0.0)
    np.fill_diagonal(lack, 0.0)
    push: Array = 0.5 * (apart / far[..., None] * lack[..., None]).sum(axis=1)
    return push


def _scaled(centres: Array, least: Array) -> Array:
    """Where discs still overlap all are moved apart alike, which ends it."""
    i, j = np.triu_indices(len(centres), 1)
    if not len(i):
        return centres
    far = np.maximum(np.linalg.norm(centres[i] - centres[j], axis=1), 1e-6)
    scaled: Array = centres * max(1.0, float(((least[i, j] - 0.9 * GAP) / far).max()))
    return scaled


def _inside(count: int, pairs: Whole, weights: Array, radius: float) -> Array:
    """Places in a disc around the origin: a sunflower's spiral, and where there are few, pulled by their relations."""
    at = np.arange(count)
    spread, angle = np.sqrt(at / max(count, 1)), GOLDEN * at
    spiral: Array = radius * spread[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    if count > MOST_PUSHED or count < 3:
        return spiral
    places, share = spiral.copy(), (weights / max(weights.max(initial=0.0), 1e-9))[:, None]
    least = np.full((count, count), 1.6 * ROOM)
    for step in range(STEPS):
        ease = 1 - step / STEPS
        if len(pairs):
            move = 0.04 * ease * share * (places[pairs[:, 1]] - places[pairs[:, 0]])
            np.add.at(places, pairs[:, 0], move)
            np.add.at(places, pairs[:, 1], -move)
        places += 0.5 * _push(places, least) + 0.02 * ease * (spiral - places)
        far = np.linalg.norm(places, axis=1, keepdims=True)
        places *= np.minimum(1.0, radius / np.maximum(far, 1e-9))
    return places
