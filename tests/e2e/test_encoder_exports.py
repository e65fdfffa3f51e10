"""What an encoder learnt, read by transformers and peft alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import yaml

from evertune import load_config, run
from evertune.console import Console
from evertune.export import export
from evertune.restore import restore_stage
from evertune.streams.examples import Segment
from tests.unit.backbones.encoder_tasks import labelled, tagged


@pytest.fixture(scope="module", params=["lora", "ia3", "full"])
def trained(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    notes = [{"text": row.prompt_text, "label": row.target} for row in labelled("notes", ["good", "bad"], 30).train]
    names = [{"tokens": [*row.content.tokens], "tags": [*row.content.tags]} for row in tagged("names", 30).train]
    for number, row in enumerate(names):
        row["tokens"][-1] = f"again{number}"
    tasks = []
    for name, rows in (("notes", notes), ("names", names)):
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        tasks.append({"name": name, "train": str(file)})
    config = folder / "run.yaml"
    values = {
        "stream": tasks,
        "backbone": {"path": "builtin:tiny-bert", "task_type": "sequence_classification"},
        "adapter": {"kind": request.param},
        "train": {"max_steps": 6, "learning_rate": 3e-3, "max_source_length": 48},
    }
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    with (folder / "said.txt").open("w") as said:
        run(load_config(config, output_dir=folder / "run"), console=Console(said))
    return folder


def _restored(folder: Path, stage: int):
    settings = load_config(folder / "run" / "config.yaml", output_dir=folder / "run")
    with (folder / "quiet.txt").open("w") as said:
        return restore_stage(settings, folder / "run", stage, Console(said))


def _logits(folder: Path) -> tuple[torch.Tensor, dict]:
    """Of the run itself, after its first stage, for rows of its first task; and the inputs."""
    restored = _restored(folder, 1)
    restored.place(0)
    rows = restored.backbone.encode(restored.stream.tasks[0].test, max_source_length=48, max_target_length=8)
    batch = restored.backbone.collate(rows)
    restored.bank.model.eval()
    with torch.no_grad():
        return restored.backbone.loss(restored.bank.model, batch).logits, batch.inputs


def test_the_folder_of_a_stage_is_the_whole_classifier(trained: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    from evertune.backbones.builtin import builtin_folder

    wanted, inputs = _logits(trained)
    folder = trained / "run" / "stages" / "01-notes" / "adapter"
    if (folder / "adapter_config.json").exists():
        base = AutoModelForSequenceClassification.from_pretrained(builtin_folder("tiny-bert"), num_labels=2)
        model = PeftModel.from_pretrained(base, str(folder)).eval()
        assert json.loads((folder / "adapter_config.json").read_text())["task_type"] == "SEQ_CLS"
    else:
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2).eval()
    with torch.no_grad():
        found = model(**inputs).logits
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["adapter", "merged"])
def test_an_export_is_checked_and_names_its_labels(trained: Path, form: str) -> None:
    from transformers import AutoModelForSequenceClassification

    if trained.name.startswith("full") and form == "adapter":
        pytest.skip("a whole model is no adapter")
    wanted, inputs = _logits(trained)
    written = export(_restored(trained, 1), trained / f"exported-{form}", form, task=0)
    assert written.difference < 1e-5
    if form == "merged":
        model = AutoModelForSequenceClassification.from_pretrained(written.folder).eval()
        assert model.config.id2label == {0: "bad", 1: "good"}
        with torch.no_grad():
            torch.testing.assert_close(model(**inputs).logits, wanted, rtol=1e-4, atol=1e-4)


def test_a_head_that_the_architecture_lacks_is_not_exported_in_silence(trained: Path) -> None:
    from evertune.errors import CapabilityError

    if trained.name.startswith("full"):
        pytest.skip("a whole model is no adapter")
    with pytest.raises(CapabilityError, match="no place for the head of names"):
        export(_restored(trained, 2), trained / "exported-names", "adapter", task=1)


def test_a_long_text_is_answered_as_it_is_scored(trained: Path) -> None:
    from evertune.cli.answering import Answerer

    settings = load_config(trained / "run" / "config.yaml", output_dir=trained / "run")
    with (trained / "quiet.txt").open("w") as said:
        answerer = Answerer.load(settings, trained / "run", 1, "notes", False, None, Console(said))
    texts = [f"note {word} " * 300 for word in ("good", "bad")]  # far more than 48 tokens
    restored = answerer.restored
    # What scoring does: the same rows, cut to what the run reads.
    frame = restored.stream.tasks[0].test[0]
    rows = [
        dataclasses.replace(frame, id=f"notes/long/{at}", prompt=(Segment(text, True),))
        for at, text in enumerate(texts)
    ]
    restored.place(0)
    encoded = restored.backbone.encode(rows, max_source_length=48, max_target_length=8, answers=False)
    assert all(row.source_cut for row in encoded)
    expected = restored.backbone.generate(restored.bank.model, encoded)
    assert [found["answer"] for found in answerer.answer(texts)] == expected


def test_a_merged_model_of_images_says_how_it_wants_them(tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    ViTForImageClassification(ViTConfig(**sizes, image_size=8, patch_size=4)).save_pretrained(tmp_path / "vit")
    ViTImageProcessorPil(size={"height": 8, "width": 8}, image_mean=[0.1, 0.2, 0.3]).save_pretrained(tmp_path / "vit")
    rows = [{"pixels": [(at * 37 + place) % 256 for place in range(64)], "label": at % 2} for at in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "stream": [{"name": "dots", "train": "rows.jsonl"}],
        "backbone": {"path": "vit", "task_type": "image_classification"},
        "train": {"max_steps": 2},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    with (tmp_path / "said.txt").open("w") as said:
        run(load_config(tmp_path / "run.yaml", output_dir=tmp_path / "run"), console=Console(said))
    written = export(_restored(tmp_path, 1), tmp_path / "merged", "merged", task=0)
    assert AutoImageProcessor.from_pretrained(written.folder).image_mean == (0.1, 0.2, 0.3)
