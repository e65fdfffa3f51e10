"""What the methods with base weights of their own, or chosen adapters, refuse before any weight is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from evertune.checking import check_adapter
from evertune.config.load import load_config
from evertune.errors import InputError
from evertune.settings import RunSettings

QUERIES = {"target": "attention_query_value"}


def settings(tmp_path: Path, **sections: object) -> RunSettings:
    values = {
        "stream": {"name": "synthetic", "tasks": ["sentiment", "topic"]},
        "backbone": {"path": "builtin:tiny-llama", "task_type": "causal_lm"},
        "adapter": QUERIES,
        **sections,
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return load_config(path)


def refusal(tmp_path: Path, **sections: object) -> str:
    with pytest.raises(InputError) as caught:
        check_adapter(settings(tmp_path, **sections))
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize(
    ("block", "where"),
    [
        ({"after_first": {"method.full_rank": None}}, "after_first.method.full_rank"),
        ({"per_task": {"topic": {"method": {"full_rank": "mlp"}}}}, "per_task.topic.method.full_rank"),
    ],
)
def test_base_weights_are_the_same_for_every_task(tmp_path: Path, block: dict[str, object], where: str) -> None:
    """Otherwise what the first task changed would be given back before the second."""
    found = refusal(tmp_path, method="gorp", **block)
    assert where in found
    assert "Which base weights change must be the same for all tasks." in found


def test_other_options_of_gorp_may_differ(tmp_path: Path) -> None:
    check_adapter(settings(tmp_path, method="gorp", after_first={"method.projection_rank": 2}))


def test_the_model_is_described_as_it_came(tmp_path: Path) -> None:
    found = refusal(tmp_path, method={"name": "gorp", "full_rank": "mlp_gat"})
    assert "method.full_rank: There is no role and no path of a linear module `mlp_gat`." in found
    assert "Did you mean `mlp_gate`?" in found
    assert "gate_proj 128->320" in found
    assert "base_layer" not in found


@pytest.mark.parametrize(("rank", "said"), [(100_000, "keeps all 128 directions"), (0.001, "keeps none of")])
def test_osf_must_keep_some_directions_and_leave_some(tmp_path: Path, rank: float, said: str) -> None:
    found = refusal(tmp_path, method="osf", adapter={**QUERIES, "kind": "osf", "effective_rank": rank})
    assert "adapter.effective_rank" in found
    assert said in found


def test_osf_ranks_are_shares_or_whole_numbers(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"adapter.effective_rank.*7.5") as caught:
        settings(tmp_path, method="osf", adapter={**QUERIES, "kind": "osf", "effective_rank": 7.5})
    assert caught.value.exit_code == 2
    for rank in (0.25, 1, 16):
        check_adapter(settings(tmp_path, method="osf", adapter={**QUERIES, "kind": "osf", "effective_rank": rank}))


def test_a_method_says_what_it_needs_of_adapters(tmp_path: Path) -> None:
    for method in ("replay", ["osf", "replay"]):
        check_adapter(settings(tmp_path, method=method, adapter={**QUERIES, "kind": "osf"}))
    with pytest.raises(InputError, match="method osf splits weights by their singular directions, but adapters of the"):
        settings(tmp_path, method=["osf", "replay"], adapter={**QUERIES, "kind": "oft"})
    with pytest.raises(InputError, match="method o-lora works on the low-rank factors of the adapters, but adapters"):
        settings(tmp_path, method="o-lora", adapter={**QUERIES, "kind": "osf"})
    with pytest.raises(
        InputError, match="method inc-lora adds the changes of several adapters, but one set of virtual"
    ):
        settings(tmp_path, method="inc-lora", adapter={"kind": "prompt_tuning"})


def test_a_quantised_model_is_refused_only_where_its_weights_would_change(tmp_path: Path) -> None:
    backbone = {"path": "builtin:tiny-llama", "task_type": "causal_lm", "quantization": "nf4"}
    with pytest.raises(InputError, match="method gorp trains base weights"):
        settings(tmp_path, method="gorp", backbone=backbone)
    settings(tmp_path, method={"name": "gorp", "full_rank": None}, backbone=backbone)


def test_inf_lora_spoils_no_adapter_that_has_learnt(tmp_path: Path) -> None:
    """Its A is chosen anew before the first task: what B had learnt would be multiplied with something else."""
    found = refusal(tmp_path, method="inf-lora", adapter={**QUERIES, "start_from": str(tmp_path)})
    assert found.startswith("adapter.start_from: method inf-lora chooses the input directions of its adapters")
