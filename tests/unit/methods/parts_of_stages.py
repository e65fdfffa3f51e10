"""A stage of training as its hooks see it, and one that is interrupted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest
from torch import nn

from evertune.errors import Interrupted
from evertune.methods.base import Context, Method, MethodState
from evertune.training.feed import Feed
from evertune.training.fit import fit
from evertune.training.interrupt import StopRequest
from evertune.training.job import FitJob


def fed(job: FitJob) -> Context:
    """The context that hooks get while a stage trains."""
    feed = Feed(job)
    return replace(job.context, batches=feed.own_batches, batch=feed.batch, computing=job.computing)


@dataclass(frozen=True, kw_only=True)
class _StopsAt(Method):
    step: int
    request: StopRequest

    def init_state(self) -> MethodState:
        return MethodState(values={"steps": 0})

    def project(self, state: MethodState, context: Context, parameters: Mapping[str, nn.Parameter]) -> None:
        state.values["steps"] += 1
        self.request.requested = state.values["steps"] == self.step


def interrupt(job: FitJob, step: int) -> None:
    """Learns a stage up to a step (1 is the first); the checkpoint has what a new process would find."""
    stop = _StopsAt(step=step, request=job.stop)
    job.states["stop"] = stop.init_state()
    with pytest.raises(Interrupted):
        fit(replace(job, methods=replace(job.methods, methods=(*job.methods.methods, ("stop", stop)))))
