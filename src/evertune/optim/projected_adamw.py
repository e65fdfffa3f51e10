"""AdamW whose moments live in a low-rank space of the gradients, kept out of protected input directions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from evertune.functional.subspace import remove_
from evertune.optim.low_rank import LowRankProjection, Projector, folded
from evertune.randomness import derive_seed

BATCH = 1 << 22
"""Coordinates that one call to Adam moves: its two temporaries have 16 MiB each."""

_FUSED = ("cpu", "cuda", "xpu", "mps")
_HALF = (torch.float16, torch.bfloat16)


class ProjectedAdamW(Optimizer):
    """AdamW; in groups that have a `rank`, of gradients projected as in GaLore.

    A step of a weight ``W (m, n)`` with directions ``P (r, n)`` and protected input directions ``S (n, s)``: the
    gradient loses its part in S, its coordinates ``R = P G^T`` go through Adam, ``N = m / (sqrt(v) + eps)``, and
    ``W <- (1 - lr wd) W - lr scale N^T P``. Every `refresh_gap` steps P becomes the strongest directions of the running
    gradient. Neither the update nor the weight decay touches S: ``W x`` stays what it was for every x in it.

    Group values, all of them fit for JSON: `lr`, `betas`, `eps`, `weight_decay`, and for projection `rank`,
    `projection_kind`, `projection_scale`, `refresh_gap` (see `LowRankProjection`) and `rotate_moments`, which carries
    the moments over into new directions instead of reinterpreting them as GaLore does. Groups without `rank` are
    `torch.optim.AdamW`, fused where possible; half-precision weights have a float32 `master` there too.

    State of a projected weight, tensors only, float32 whatever the weight is: `step`, `exp_avg`, `exp_avg_sq`
    (coordinates, the rank first), `input_directions`, `output_directions` and, for a half-precision weight, `master`,
    to which the updates are added: from the first step on, the weight is a rounded copy of it. Half-precision
    gradients are widened one at a time; in float32 a step without refresh has no temporary of the size of a weight.

    A gradient that is not finite changes nothing: not the weight, not its moments, not its step count. Random numbers
    depend on the seed, the parameter's index and its step alone, so that a resumed run and every process of a
    distributed one have the same directions.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        seed: int = 0,
        protected: Mapping[nn.Parameter, Tensor] | None = None,
    ) -> None:
        """Checks the groups.

        Args:
            params: Parameters or groups.
            lr: Learning rate.
            betas: Decay of the two moments.
            eps: Added to the root of the second moment.
            weight_decay: Decoupled, times `lr`.
            seed: Of the randomized search for directions.
            protected: ``(n, s)`` by projected weight, orthonormal columns.

        Raises:
            ValueError: If a value is out of its range, a weight cannot be projected, or a basis does not fit.
        """
        self._seed = seed
        self._protected: dict[Tensor, Tensor] = {}
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        projected = {weight for group in self.param_groups if _is_projected(group) for weight in group["params"]}
        for weight, basis in (protected or {}).items():
            if weight not in projected:
                raise ValueError("protected directions were given for a parameter that is in no group with a rank")
            if basis.dim() != 2 or basis.shape[0] != folded(weight).shape[1]:
                raise ValueError(f"a basis of shape {tuple(basis.shape)} fits no weight of {tuple(weight.shape)}")
            if basis.shape[1]:
                # A copy: products round by the alignment of memory, and a basis read from a file has another one.
                self._protected[weight] = basis.detach().to(weight.device, torch.float32, copy=True)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As `torch.optim.Optimizer`; completes and checks what belongs to projection."""
        if _is_projected(param_group):
            for key, value in _PROJECTION_DEFAULTS.items():
                param_group.setdefault(key, value)
            _projection(param_group)
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        _check(group)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step over all parameters that have gradients.

        Args:
            closure: Evaluates the model anew and returns the loss.

        Returns:
            What the closure returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if _is_projected(group):
                self._projected_step(group)
            else:
                self._plain_step(group)
        return loss

    @property
    def state_bytes(self) -> int:
        """Bytes of all state tensors."""
        return sum(value.nbytes for entry in self.state.values() for value in entry.values())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As `torch.optim.Optimizer`, which would round the state of half-precision weights to their precision."""
        super().load_state_dict(state_dict)
        saved = [index for group in state_dict["param_groups"] for index in group["params"]]
        for index, (group, weight) in zip(saved, self._members(), strict=True):
            entry = state_dict["state"].get(index)
            if entry is None:
                continue
            if _is_projected(group):
                self.state[weight] = {
                    key: value.detach().to("cpu" if key == "step" else weight.device, torch.float32, copy=True)
                    for key, value in entry.items()
                }
            else:
                step_device = weight.device if _can_fuse(group) else "cpu"
                self.state[weight] = {
                    key: value.detach().to(step_device if key == "step" else weight.device, copy=True)
                    for key, value in entry.items()
                }

    def _members(self) -> Iterator[tuple[dict[str, Any], Tensor]]:
        """All parameters in the order of their indices, with their groups."""
        return ((group, weight) for group in self.param_groups for weight in group["params"])

    def _plain_step(self, group: dict[str, Any]) -> None:
        """What `torch.optim.AdamW` does."""
        weights = [weight for weight in group["params"] if weight.grad is not None]
        fused = _can_fuse(group)
        for weight in weights:
            state = self.state[weight]
            if not state:
                state["step"] = torch.zeros((), device=weight.device if fused else None)
                master = weight.detach().float() if weight.dtype in _HALF else weight
                state["exp_avg"] = torch.zeros_like(master, memory_format=torch.preserve_format)
                state["exp_avg_sq"] = torch.zeros_like(master, memory_format=torch.preserve_format)
                if weight.dtype in _HALF:
                    state["master"] = master
        states = [self.state[weight] for weight in weights]
        held = [state.get("master", weight) for weight, state in zip(weights, states, strict=True)]
        gradients = [
            _gradient(weight).to(state["exp_avg"].dtype) for weight, state in zip(weights, states, strict=True)
        ]
        _adamw(held, gradients, states, [state["step"] for state in states], group, fused=fused)
        for weight, state in zip(weights, states, strict=True):
            if "master" in state:
                weight.copy_(state["master"])

    def _projected_step(self, group: dict[str, Any]) -> None:
        """Weights whose coordinates have the same shape go through Adam together."""
        projection = _projection(group)
        batches: dict[tuple[Any, ...], list[_Member]] = {}
        for weight in group["params"]:
            member = self._member(weight, group, projection) if weight.grad is not None else None
            if member is not None:
                batches.setdefault((weight.device, tuple(member.state["exp_avg"].shape)), []).append(member)
        for (_, shape), members in batches.items():
            size = max(BATCH // (shape[0] * shape[1]), 1)
            for start in range(0, len(members), size):
                self._update(members[start : start + size], group, projection.scale)

    def _member(self, weight: Tensor, group: dict[str, Any], projection: LowRankProjection) -> _Member | None:
        """A weight with its projector, refreshed if that is due; None if it has no direction to go."""
        state, basis = self.state.get(weight, {}), self._protected.get(weight)
        m, n = weight.shape[0], weight[0].numel()
        if projection.effective_rank(m, n, 0 if basis is None else basis.shape[1]) == 0:
            return None
        former = _projector(state) if state else None
        step = int(state["step"]) if state else 0
        if former is not None and step % projection.refresh_gap:
            return _Member(weight, state, former, basis)
        generator = torch.Generator().manual_seed(derive_seed(self._seed, self._index(weight), step))
        new = projection.refresh(folded(_gradient(weight)), generator=generator, former=former, protected=basis)
        if new is None:
            return None
        if former is None:
            state = self.state[weight] = _first_state(weight, new.shape(m, n))
        elif group["rotate_moments"]:
            state["exp_avg"], state["exp_avg_sq"] = new.carry(former, state["exp_avg"], state["exp_avg_sq"])
        directions = {"input_directions": new.inputs, "output_directions": new.outputs}
        state.update({key: value for key, value in directions.items() if value is not None})
        return _Member(weight, state, new, basis)

    def _index(self, weight: Tensor) -> int:
        return next(index for index, (_, other) in enumerate(self._members()) if other is weight)

    def _update(self, members: list[_Member], group: dict[str, Any], scale: float) -> None:
        """Projects, takes Adam's step in the coordinates and adds it to the weights."""
        shape = members[0].state["exp_avg"].shape
        lows = torch.empty(len(members), *shape, device=members[0].weight.device)
        for member, low in zip(members, lows, strict=True):
            member.project(low)
        # Whatever is not finite in a gradient reaches its coordinates. One question for the whole batch.
        finite = lows.sum((1, 2)).isfinite().tolist()
        steps = torch.zeros_like(lows)
        chosen = [index for index, fine in enumerate(finite) if fine]
        states = [members[index].state for index in chosen]
        counts = list(torch.tensor([float(state["step"]) for state in states]).to(lows.device).unbind())
        unit = {**group, "lr": 1.0, "weight_decay": 0.0}
        _adamw(
            [steps[index] for index in chosen], [lows[index] for index in chosen], states, counts, unit,
            fused=lows.device.type in _FUSED,
        )  # fmt: skip
        for index, state in zip(chosen, states, strict=True):
            state["step"] += 1
            members[index].move(steps[index], rate=group["lr"], scale=scale, decay=group["weight_decay"])


def projected_bytes(groups: Iterable[Mapping[str, Any]]) -> int:
    """Bytes of state that the float32 weights of the groups with a `rank` will have."""
    sizes = [
        _projection({**_PROJECTION_DEFAULTS, **group}).state_size(weight.shape[0], weight[0].numel()) + 1
        for group in groups
        if _is_projected(group)
        for weight in group["params"]
    ]
    return 4 * sum(sizes)


@dataclass(frozen=True)
class _Member:
    """A weight in a step.

    Attributes:
        weight: Of any shape.
        state: Its state.
        projector: Its directions.
        basis: Its protected directions.
    """

    weight: Tensor
    state: dict[str, Tensor]
    projector: Projector
    basis: Tensor | None

    def project(self, low: Tensor) -> None:
        """Writes the coordinates of the gradient."""
        self.projector.down(folded(_gradient(self.weight)).float(), out=low)
        self._free(low)

    def move(self, low: Tensor, *, rate: float, scale: float, decay: float) -> None:
        """``W <- W - rate decay (W - W S S^T) + rate scale up(low)``."""
        self._free(low)
        matrix = folded(self.state.get("master", self.weight.data))
        shrunk = 1 - rate * decay
        if decay and self.basis is not None:
            matrix.addmm_(matrix @ self.basis, self.basis.T, beta=shrunk, alpha=rate * decay)
            shrunk = 1.0
        self.projector.add_up_(matrix, low, alpha=rate * scale, beta=shrunk)
        if matrix.data_ptr() != self.weight.data_ptr():
            self.weight.copy_(matrix.view(self.weight.shape))

    def _free(self, low: Tensor) -> None:
        """Coordinates over inputs lose their protected part; directions of inputs have none."""
        if self.basis is not None and self.projector.inputs is None:
            remove_(low, self.basis)


_PROJECTION_DEFAULTS = {
    "projection_kind": LowRankProjection.kind,
    "projection_scale": LowRankProjection.scale,
    "refresh_gap": LowRankProjection.refresh_gap,
    "rotate_moments": True,
}


def _is_projected(group: Mapping[str, Any]) -> bool:
    return group.get("rank") is not None


def _projection(group: Mapping[str, Any]) -> LowRankProjection:
    return LowRankProjection(
        kind=group["projection_kind"],
        rank=group["rank"],
        scale=group["projection_scale"],
        refresh_gap=group["refresh_gap"],
    )


def _check(group: Mapping[str, Any]) -> None:
    if not all(0 <= beta < 1 for beta in group["betas"]):
        raise ValueError(f"betas are {group['betas']}; each must be at least 0 and below 1")
    for key in ("lr", "eps", "weight_decay"):
        if group[key] < 0:
            raise ValueError(f"{key} is {group[key]}; it must not be negative")
    for weight in group["params"] if _is_projected(group) else ():
        if weight.dim() < 2:
            raise ValueError(f"a weight of shape {tuple(weight.shape)} has no rank; put it into a group without one")
        if weight.dtype not in (torch.float32, *_HALF):
            raise ValueError(f"a weight of {weight.dtype} cannot be projected: float32, bfloat16 or float16")


def _gradient(weight: Tensor) -> Tensor:
    assert weight.grad is not None, "only weights with gradients take part"
    return weight.grad


def _projector(state: Mapping[str, Tensor]) -> Projector:
    return Projector(state.get("input_directions"), state.get("output_directions"))


def _first_state(weight: Tensor, shape: tuple[int, int]) -> dict[str, Tensor]:
    state = {"step": torch.zeros(())}
    state["exp_avg"], state["exp_avg_sq"] = (torch.zeros(shape, device=weight.device) for _ in range(2))
    if weight.dtype in _HALF:
        state["master"] = folded(weight.detach()).float().contiguous()
    return state


def _can_fuse(group: Mapping[str, Any]) -> bool:
    return all(weight.device.type in _FUSED and weight.is_floating_point() for weight in group["params"])


def _adamw(
    weights: list[Tensor],
    gradients: list[Tensor],
    states: list[dict[str, Tensor]],
    steps: list[Tensor],
    group: Mapping[str, Any],
    *,
    fused: bool,
) -> None:
    """Torch's own AdamW on lists of tensors; counts up `steps`."""
    beta1, beta2 = group["betas"]
    adamw(
        weights,
        gradients,
        [state["exp_avg"] for state in states],
        [state["exp_avg_sq"] for state in states],
        [],
        steps,
        fused=fused,
        amsgrad=False,
        beta1=beta1,
        beta2=beta2,
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )
