"""BFGS for many small problems at once, each at its own pace, with members swapped in flight.

Every candidate has its own inverse Hessian (a dozen variables), step length and stage of pressure;
one evaluation serves a step of all. Whether the step goes down far enough (Armijo), is halved, or
ends a stage is decided for each alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from packflow_core.baselines.press_batch import Batch, Geometry, joined
from packflow_core.baselines.press_lists import Member
from packflow_core.baselines.press_math import dot, times

Tensor = torch.Tensor

_ARMIJO = 1e-4
#: Longest change of any variable in one step, Å.
_MAX_STEP = 0.5
#: Longest first step, before anything is known of the curvature, Å.
_FIRST_STEP = 0.1
#: Failed step lengths in a row that restart the Hessian, or end a stage where it is fresh.
_MAX_FAILURES = 8
#: Smallest cosine of step and change of gradient that teaches anything.
_MIN_CURVATURE = 1e-8
#: Share of the batch that must be finished before others take the places.
_SWAP_SHARE = 0.125


@dataclass(frozen=True)
class Stage:
    """One minimisation at constant pressure.

    Attributes:
        pressure: 1/Å.
        max_steps: steps at most.
        tolerance: largest gradient at the end, over pressure times the face of a molecule.
    """

    pressure: float
    max_steps: int
    tolerance: float


@dataclass
class _State:
    """Everything that belongs to the candidates, last index [S]."""

    geometry: Geometry
    energy: Tensor
    gradient: Tensor
    inverse: Tensor  # [D, D, S] inverse Hessian
    direction: Tensor
    length: Tensor  # of the step to try, in units of the direction
    slope: Tensor
    stage: Tensor
    steps: Tensor  # within the stage
    failures: Tensor
    fresh: Tensor  # the inverse Hessian knows nothing yet
    restart: Tensor  # energy and gradient are those of another pressure, or none
    total: Tensor  # evaluations so far
    radius: Tensor  # Å that turn radians into lengths
    key: Tensor  # place in the input

    def take(self, keep: Tensor) -> _State:
        """The candidates of the index `keep`."""
        rest = {
            name: value[..., keep].contiguous()
            for name, value in self.__dict__.items()
            if isinstance(value, Tensor)
        }
        return _State(self.geometry.take(keep), **rest)


def _started(batch: Batch, keys: Sequence[int]) -> _State:
    """State of new candidates."""
    s, d = len(keys), 6 + 6 * batch.n_molecules
    radii = [float((m.shape.offsets**2).sum(axis=1).mean()) ** 0.5 for m in batch.members]
    return _State(
        geometry=batch.geometry(),
        energy=torch.full((s,), torch.inf, dtype=torch.float64),
        gradient=torch.zeros(d, s, dtype=torch.float64),
        inverse=torch.eye(d, dtype=torch.float64)[:, :, None].repeat(1, 1, s),
        direction=torch.zeros(d, s, dtype=torch.float64),
        length=torch.zeros(s, dtype=torch.float64),
        slope=torch.zeros(s, dtype=torch.float64),
        stage=torch.zeros(s, dtype=torch.int64),
        steps=torch.zeros(s, dtype=torch.int64),
        failures=torch.zeros(s, dtype=torch.int64),
        fresh=torch.ones(s, dtype=torch.bool),
        restart=torch.ones(s, dtype=torch.bool),
        total=torch.zeros(s, dtype=torch.int64),
        radius=torch.tensor(radii, dtype=torch.float64).clamp(min=0.5),
        key=torch.tensor(list(keys), dtype=torch.int64),
    )


@dataclass(frozen=True, eq=False)
class Minimum:
    """Where a minimisation ended.

    Attributes:
        key: place of the candidate in the input.
        geometry: of it alone.
        evaluations: evaluations of energy and gradient.
        sound: False where not even the start could be evaluated.
    """

    key: int
    geometry: Geometry
    evaluations: int
    sound: bool


def minimise(
    members: Sequence[Member], stages: Sequence[Stage], batch_size: int
) -> Iterator[Minimum]:
    """Minimise all members through all stages.

    Args:
        members: candidates with the same number of atoms in a molecule.
        stages: one after the other.
        batch_size: candidates at once; no number depends on it.

    Yields:
        The minima, as the candidates finish.
    """
    count = max((len(m.packing.centres) for m in members), default=1)
    waiting = list(range(len(members)))[::-1]
    pressures = torch.tensor([stage.pressure for stage in stages], dtype=torch.float64)
    limits = torch.tensor([stage.max_steps for stage in stages], dtype=torch.int64)
    tolerances = torch.tensor([stage.tolerance for stage in stages], dtype=torch.float64)
    last = len(stages)
    kept: list[Member] = []
    state: _State | None = None
    while kept or waiting:
        new = [waiting.pop() for _ in range(min(batch_size - len(kept), len(waiting)))]
        if new:
            fresh = [members[key] for key in new]
            begun = _started(Batch(fresh, count), new)
            state = begun if state is None else _joined(state, begun)
            kept = kept + fresh
        assert state is not None
        batch = Batch(kept, count)
        enough = max(1, int(_SWAP_SHARE * len(kept)))
        while True:
            stage = state.stage.clamp(max=last - 1)
            _advance(batch, state, pressures[stage], limits[stage], tolerances[stage], last)
            done = state.stage >= last
            if int(done.sum()) >= enough:
                break
        for k in torch.nonzero(done).view(-1).tolist():
            yield Minimum(
                int(state.key[k]),
                state.geometry.take(torch.tensor([k])),
                int(state.total[k]),
                bool(torch.isfinite(state.energy[k])),
            )
        left = torch.nonzero(~done).view(-1)
        kept = [kept[k] for k in left.tolist()]
        state = state.take(left) if kept else None


def _joined(a: _State, b: _State) -> _State:
    rest = {
        name: torch.cat([value, getattr(b, name)], dim=-1)
        for name, value in a.__dict__.items()
        if isinstance(value, Tensor)
    }
    return _State(joined([a.geometry, b.geometry]), **rest)


def _advance(
    batch: Batch, s: _State, pressure: Tensor, limit: Tensor, tolerance: Tensor, last: int
) -> None:
    """One evaluation for every candidate, and what follows from it."""
    alive = s.stage < last
    d = len(s.gradient)
    half = 6 + (d - 6) // 2
    scaled = torch.ones_like(s.gradient)
    scaled[half:] = 1.0 / s.radius
    length = torch.where(alive, s.length, 0.0)
    step = length * s.direction
    trial = batch.moved(s.geometry, step * scaled)
    energy, gradient = batch.energy(trial, pressure)
    gradient = gradient * scaled
    s.total += alive

    finite = torch.isfinite(energy) & torch.isfinite(gradient).all(dim=0)
    lower = energy <= s.energy + _ARMIJO * length * s.slope
    accept = alive & finite & (lower | s.restart)
    learn = accept & ~s.restart
    # A start that cannot be evaluated never will be.
    s.stage = torch.where(alive & s.restart & ~finite, last, s.stage)

    _learn(s, step, gradient - s.gradient, learn)
    reject = alive & ~accept
    gain = energy - s.energy - length * s.slope
    best = -0.5 * s.slope * length * length / torch.where(gain > 0, gain, 1.0)
    best = torch.where(finite & (gain > 0), best, 0.0)
    shorter = torch.minimum(torch.maximum(best, 0.1 * length), 0.5 * length)
    s.geometry = trial.where(accept, s.geometry)
    s.energy = torch.where(accept, energy, s.energy)
    s.gradient = torch.where(accept, gradient, s.gradient)
    s.failures = torch.where(reject, s.failures + 1, 0)
    s.steps = s.steps + learn
    stuck = reject & (s.failures >= _MAX_FAILURES)

    # The end of a stage: small forces, many steps, or nowhere to go.
    force = s.gradient.abs().amax(dim=0)
    small = force <= tolerance * pressure * batch.faces(s.geometry)
    over = (accept & (small | (s.steps >= limit))) | (stuck & s.fresh)
    s.stage = torch.where(over, s.stage + 1, s.stage)
    s.steps = torch.where(over, 0, s.steps)
    s.restart = over
    s.failures = torch.where(stuck, 0, s.failures)
    _forget(s, stuck & ~s.fresh)
    _aim(s, accept | stuck)
    s.length = torch.where(reject & ~stuck, shorter, s.length)
    # A new stage begins with an evaluation where it stands.
    s.length = torch.where(over, 0.0, s.length)


def _aim(s: _State, mask: Tensor) -> None:
    """New directions and first step lengths where `mask` [S]."""
    direction = -times(s.inverse, s.gradient)
    slope = dot(direction, s.gradient)
    uphill = mask & ~(slope < 0)
    _forget(s, uphill)
    direction = torch.where(uphill, -s.gradient, direction)
    slope = torch.where(uphill, -dot(s.gradient, s.gradient), slope)
    longest = direction.abs().amax(dim=0).clamp(min=1e-300)
    cap = torch.where(s.fresh, _FIRST_STEP, _MAX_STEP) / longest
    s.direction = torch.where(mask, direction, s.direction)
    s.slope = torch.where(mask, slope, s.slope)
    s.length = torch.where(mask, cap.clamp(max=1.0), s.length)


def _learn(s: _State, step: Tensor, change: Tensor, mask: Tensor) -> None:
    """BFGS update of the inverse Hessians where `mask` [S]."""
    sy, yy, ss = dot(step, change), dot(change, change), dot(step, step)
    good = mask & (sy > _MIN_CURVATURE * torch.sqrt(yy * ss)) & (sy > 0)
    safe = torch.where(good, sy, 1.0)
    first = good & s.fresh
    if bool(first.any()):
        d = len(step)
        guess = torch.eye(d, dtype=torch.float64)[:, :, None] * (sy / yy.clamp(min=1e-300))
        s.inverse = torch.where(first, guess, s.inverse)
        s.fresh = s.fresh & ~first
    hy = times(s.inverse, change)
    factor = (1.0 + dot(change, hy) / safe) / safe
    outer = hy[:, None] * (step / safe)[None, :]
    update = step[:, None] * (factor * step)[None, :] - outer - outer.transpose(0, 1)
    s.inverse = s.inverse + torch.where(good, update, 0.0)


def _forget(s: _State, mask: Tensor) -> None:
    """Begin anew with the inverse Hessian where `mask` [S]."""
    if not bool(mask.any()):
        return
    d = len(s.gradient)
    s.inverse = torch.where(mask, torch.eye(d, dtype=torch.float64)[:, :, None], s.inverse)
    s.fresh = s.fresh | mask
