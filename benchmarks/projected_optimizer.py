"""The projected optimiser beside GaLore's own: refreshing directions, a step without refresh, memory.

    pip install --no-deps galore-torch==1.0    # needs bitsandbytes, as an import only
    python benchmarks/projected_optimizer.py

One thread, float32. Every candidate does the same work, in turn and in one process; a ratio is the median of the paired
ratios, so that a machine that slows down slows both. GaLoreAdamW refreshes by `torch.linalg.svd`.

Refresh: one matrix with singular values 1/i, and 0.9^i; the captured energy is relative to what the exact singular
vectors hold. Warm starts from the directions of the same matrix with noise of half its norm.

Step: a model of several matrices of one shape, each with a gradient of its own, so that nothing stays in the cache by
chance; the kind is `std` for both. The parts of a step say where the time goes: `down`, the projection of the gradient,
and `up`, adding the update to the weight, measured alone as both write them (ours / GaLore's); the rest is Adam and
calls. Both need these two products. What can be saved is what GaLore adds: two temporaries of the size of the weight
and passes over them. At rank 128 the products are nearly all of either step, so the ratio is close to 1.

Memory: storage that the state keeps alive, after a refresh, measured for both; a view counts with all that it is a view
of. The formula counts two moments and the directions, 4 * (2 * r * m + r * n) bytes where the inputs are projected.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn

from evertune.functional.subspace import right_subspace
from evertune.optim.low_rank import Projector
from evertune.optim.projected_adamw import ProjectedAdamW

SHAPES = ((1024, 1024), (4096, 1024))
RANKS = (8, 128)
NEVER = 10**9


def paired(ours: Callable[[], Any], peer: Callable[[], Any], rounds: int) -> tuple[float, float, float]:
    """Median milliseconds of both, and the median of peer / ours."""
    pairs = []
    for index in range(rounds + 1):
        pairs.append((timed(ours), timed(peer)))
        if index == 0:
            pairs.clear()  # the first one warms up
    ratio = statistics.median(theirs / own for own, theirs in pairs)
    return statistics.median(own for own, _ in pairs), statistics.median(theirs for _, theirs in pairs), ratio


def timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def spectrum(name: str, count: int) -> Tensor:
    index = torch.arange(1, count + 1, dtype=torch.float32)
    return {"1/i": 1 / index, "0.9^i": 0.9**index}[name]


def matrix_with(values: Tensor, m: int, n: int) -> Tensor:
    left, right = (torch.linalg.qr(torch.randn(side, len(values)))[0] for side in (m, n))
    return (left * values) @ right.T


def refresh_rows(rounds: int) -> Iterator[str]:
    yield "| refresh | rank | spectrum | start | ours ms | svd ms | svd / ours | energy, % of optimal |"
    yield "|---|---|---|---|---|---|---|---|"
    draw = torch.Generator().manual_seed(0)
    for m, n in SHAPES:
        for rank in RANKS:
            for name in ("1/i", "0.9^i"):
                values = spectrum(name, min(m, n))
                gradient = matrix_with(values, m, n)
                noise = torch.randn(m, n)
                former = right_subspace(gradient + noise * (0.5 * values.norm() / noise.norm()), rank, generator=draw)
                for start, label in ((None, "cold"), (former, "warm")):
                    own, peer, ratio = paired(
                        lambda: right_subspace(gradient, rank, generator=draw, start=start),  # noqa: B023
                        lambda: torch.linalg.svd(gradient, full_matrices=False),  # noqa: B023
                        rounds,
                    )
                    found = [right_subspace(gradient, rank, generator=draw, start=start) for _ in range(5)]
                    energy = min(float((gradient @ rows.T).square().sum()) for rows in found)
                    share = 100 * energy / float(values[:rank].square().sum())
                    times = f"{own:.1f} | {peer:.0f} | {ratio:.0f}"
                    yield f"| {m}x{n} | {rank} | {name} | {label} | {times} | {share:.3f} |"


class Model:
    """Matrices of one shape with gradients, and an optimiser that has had its first step."""

    def __init__(
        self, build: Callable[[list[nn.Parameter]], torch.optim.Optimizer], m: int, n: int, count: int
    ) -> None:
        torch.manual_seed(0)
        self.weights = [nn.Parameter(torch.randn(m, n) * 0.02) for _ in range(count)]
        for weight in self.weights:
            weight.grad = torch.randn(m, n)
        self.optimizer = build(self.weights)
        self.optimizer.step()

    def step(self) -> None:
        self.optimizer.step()


def our_optimizer(rank: int, decay: float) -> Callable[[list[nn.Parameter]], torch.optim.Optimizer]:
    def build(weights: list[nn.Parameter]) -> torch.optim.Optimizer:
        group = {"params": weights, "rank": rank, "projection_kind": "std", "refresh_gap": NEVER}
        return ProjectedAdamW([group], lr=1e-4, weight_decay=decay)

    return build


def peer_optimizer(rank: int, decay: float) -> Callable[[list[nn.Parameter]], torch.optim.Optimizer]:
    from galore_torch import GaLoreAdamW

    def build(weights: list[nn.Parameter]) -> torch.optim.Optimizer:
        group = {"params": weights, "rank": rank, "update_proj_gap": NEVER, "scale": 1.0, "proj_type": "std"}
        return GaLoreAdamW([group], lr=1e-4, weight_decay=decay, no_deprecation_warning=True)

    return build


def part_of_a_step(rank: int, m: int, n: int, count: int, rounds: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Milliseconds per matrix of down and of up: ours and the peer's each, and the ratio."""
    gradients = [torch.randn(m, n) for _ in range(count)]
    weights = [torch.randn(m, n) for _ in range(count)]
    rows = torch.linalg.qr(torch.randn(n, rank))[0].T.contiguous()
    ours = Projector(rows, None)
    low, turned = torch.randn(rank, m), torch.randn(m, rank)

    def each(call: Callable[[int], Any]) -> Callable[[], Any]:
        return lambda: [call(index) for index in range(count)]

    down = paired(
        each(lambda i: ours.down(gradients[i], out=low)), each(lambda i: torch.matmul(gradients[i], rows.t())), rounds
    )
    up = paired(
        each(lambda i: ours.add_up_(weights[i], low, alpha=1e-6)),
        each(lambda i: weights[i].add_(torch.matmul(turned, rows) * 1.0, alpha=1e-6)),
        rounds,
    )
    return tuple(value / count for value in down[:2]), tuple(value / count for value in up[:2])


def step_rows(count: int, rounds: int) -> Iterator[str]:
    yield f"| step of {count} matrices | rank | decay | ours ms | GaLore ms | ratio | down ms each | up ms each |"
    yield "|---|---|---|---|---|---|---|---|"
    for m, n in SHAPES:
        for rank in RANKS:
            down, up = part_of_a_step(rank, m, n, count, rounds)
            parts = f"{down[0]:.1f} / {down[1]:.1f} | {up[0]:.1f} / {up[1]:.1f}"
            for decay in (0.0, 0.01):
                ours = Model(our_optimizer(rank, decay), m, n, count)
                peer = Model(peer_optimizer(rank, decay), m, n, count)
                own, theirs, ratio = paired(ours.step, peer.step, rounds)
                yield f"| {m}x{n} | {rank} | {decay} | {own:.1f} | {theirs:.1f} | {ratio:.1f} | {parts} |"


def alive_bytes(state: Mapping[Any, Mapping[str, Any]]) -> int:
    """Bytes of all storage that tensors of a state, or of projectors in it, keep alive."""
    storages = {}
    for entry in state.values():
        for value in entry.values():
            tensors = [value] if isinstance(value, Tensor) else [getattr(value, "ortho_matrix", None)]
            for tensor in tensors:
                if isinstance(tensor, Tensor):
                    storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(storages.values())


def memory_rows() -> Iterator[str]:
    yield "| memory of one matrix | rank | formula bytes | ours | GaLoreAdamW | AdamW |"
    yield "|---|---|---|---|---|---|"
    for m, n in SHAPES:
        for rank in RANKS:
            ours, peer = Model(our_optimizer(rank, 0.0), m, n, 1), Model(peer_optimizer(rank, 0.0), m, n, 1)
            formula = 4 * (2 * rank * m + rank * n)
            own, theirs = alive_bytes(ours.optimizer.state), alive_bytes(peer.optimizer.state)
            yield f"| {m}x{n} | {rank} | {formula:,} | {own:,} | {theirs:,} | {8 * m * n:,} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--matrices", type=int, default=8, help="matrices of the model whose step is measured")
    parser.add_argument("--rounds", type=int, default=9, help="pairs of a step")
    parser.add_argument("--refresh-rounds", type=int, default=5, help="pairs of a refresh")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.no_grad():
        for rows in (
            step_rows(arguments.matrices, arguments.rounds),
            memory_rows(),
            refresh_rows(arguments.refresh_rounds),
        ):
            for row in rows:
                print(row, flush=True)
            print()


if __name__ == "__main__":
    main()
