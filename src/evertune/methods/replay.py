"""Experience replay: some rows of earlier tasks are kept and mixed into every later one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt

from evertune.functional.sampling import fair_shares, lowest_priorities
from evertune.methods.base import Context, Method, MethodState
from evertune.methods.row_answers import mean_entropies, mean_losses
from evertune.randomness import derive_seed, python_generator
from evertune.streams.examples import PromptTarget


@dataclass(frozen=True, kw_only=True)
class Replay(Method):
    """Keeps rows of earlier tasks in a buffer and adds some to every epoch of a later task.

    The buffer holds ids; rows are read from the stream again. Which rows were replayed in which epoch is written to
    ``replayed.jsonl`` of the stage.

    Attributes:
        buffer: ``reservoir``: one budget for all rows seen so far, at random a uniform sample of them;
            ``balanced``: the same share for every task.
        buffer_size: Size of the buffer, in `buffer_unit`.
        buffer_unit: ``rows``, or ``bytes`` of UTF-8 text (prompt and answer).
        ratio: Replayed rows per row of the running task in every epoch; they come on top of its own rows.
        selection: Which rows a budget goes to: ``random``; ``low_entropy``: those whose answers the model is surest of;
            ``surprise``: those whose answers it finds least likely, wrongly labelled ones among them. Both are means
            over the tokens of the answer, taken in one pass over the task's rows when it has been learnt. A row keeps
            what it had then: with ``reservoir`` the rows of all tasks compete by it.

    Source: Robins (1995), "Catastrophic forgetting, rehearsal and pseudorehearsal"; Chaudhry et al. (2019),
    arXiv:1902.10486, for small buffers; Isele and Cosgun (2018), arXiv:1802.10269, for surprise; the published code of
    DS-LoRA (2025) for low entropy, where it selects probes.
    """

    buffer: Literal["reservoir", "balanced"] = "balanced"
    buffer_size: Annotated[int, Ge(1)] = 1000
    buffer_unit: Literal["rows", "bytes"] = "rows"
    ratio: Annotated[float, Gt(0)] = 0.2
    selection: Literal["random", "low_entropy", "surprise"] = "random"

    owns: ClassVar[frozenset[str]] = frozenset({"earlier_rows"})
    requires: ClassVar[frozenset[str]] = frozenset({"old_data", "text_answers"})

    def required(self) -> frozenset[str]:
        """Rows of earlier tasks; answers token by token where these decide which rows are kept."""
        return self.requires if self.selection != "random" else frozenset({"old_data"})

    def init_state(self) -> MethodState:
        """An empty buffer."""
        return MethodState(values={"buffer": []} if self.selection == "random" else {"buffer": [], "scores": {}})

    def train_data(
        self, state: MethodState, context: Context, rows: Sequence[PromptTarget], epoch: int
    ) -> Sequence[PromptTarget]:
        """The task's rows and, behind them, rows drawn from the buffer (again and again if it is small)."""
        kept: list[str] = state.values["buffer"]
        wanted = round(self.ratio * len(rows))
        if not kept or not wanted:
            return rows
        draw = python_generator(context.seed, "replay", context.stage.index, epoch)
        ids = kept * (wanted // len(kept)) + draw.sample(kept, wanted % len(kept))
        by_id = context.stream.train_rows(ids)
        return [*rows, *(by_id[id] for id in ids)]

    def end_task(self, state: MethodState, context: Context) -> None:
        """Offers the stage's own rows to the buffer."""
        kept = set(state.values["buffer"])
        candidates = {
            task.name: [row for row in task.train if row.id in kept or task in context.tasks] for task in context.seen
        }
        budgets = self._budgets(list(candidates.values()))
        if self.buffer == "reservoir":
            pools = [[row for rows in candidates.values() for row in rows]]
        else:
            pools = list(candidates.values())
        priority = self._priority(state, context)
        state.values["buffer"] = [
            pool[index].id
            for pool, budget in zip(pools, budgets, strict=True)
            for index in lowest_priorities(
                [priority(row) for row in pool],
                [self._size(row) for row in pool],
                budget,
            )
        ]
        if self.selection != "random":
            scores = state.values["scores"]
            state.values["scores"] = {id: scores[id] for id in state.values["buffer"]}

    def _priority(self, state: MethodState, context: Context) -> Callable[[PromptTarget], float]:
        """What orders rows, the first to be kept lowest; the stage's own rows are scored for it."""
        if self.selection == "random":
            return lambda row: derive_seed(context.seed, "priority", row.id)
        scores: dict[str, float] = state.values["scores"]
        scores |= mean_entropies(context) if self.selection == "low_entropy" else mean_losses(context)
        sign = 1 if self.selection == "low_entropy" else -1
        return lambda row: sign * scores[row.id]

    def _budgets(self, pools: list[list[PromptTarget]]) -> list[int]:
        if self.buffer == "reservoir":
            return [self.buffer_size]
        return fair_shares([sum(self._size(row) for row in pool) for pool in pools], self.buffer_size)

    def _size(self, row: PromptTarget) -> int:
        if self.buffer_unit == "rows":
            return 1
        chat = "".join(str(message.get("content") or "") for message in row.messages)
        return len((row.prompt_text + chat + row.target).encode())
