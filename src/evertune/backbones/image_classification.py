"""One label for an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from evertune.backbones.base import IGNORED
from evertune.backbones.encoder import Encoder
from evertune.backbones.pixels import PixelReader
from evertune.backbones.reading import Limits
from evertune.backbones.sequence_classification import LabelReader
from evertune.backbones.windows import EncodedRow, Window
from evertune.streams.contents import Picture
from evertune.streams.examples import PromptTarget

if TYPE_CHECKING:
    from torch import Tensor

    from evertune.backbones.base import BackboneConfig
    from evertune.backbones.encoder_rows import EncoderRows
    from evertune.backbones.loading import Described
    from evertune.streams.task import Task


class ImageReader(LabelReader):
    """Images with one label each."""

    reads = "image"

    def encode(self, rows: Sequence[PromptTarget], limits: Limits, *, answers: bool) -> list[EncodedRow]:
        """The image itself is read when a batch is made."""
        labels = [self.label_index(row) if answers else IGNORED for row in rows]
        return [
            EncodedRow(row.id, (), (), task=self.task.name, row=row, windows=(Window((), (label,)),))
            for row, label in zip(rows, labels, strict=True)
        ]


class ImageClassification(Encoder):
    """A classifier of images."""

    auto_class = "AutoModelForImageClassification"
    reader = ImageReader

    @classmethod
    def row_encoder(cls, config: BackboneConfig, described: Described, tasks: Sequence[Task]) -> EncoderRows:
        """See `Encoder.row_encoder`; a damaged preprocessor_config.json is found here, not in the first batch."""
        PixelReader.of(config, described.settings)
        return super().row_encoder(config, described, tasks)

    def _inputs(self, rows: Sequence[EncodedRow]) -> dict[str, Tensor]:
        settings: Any = self.model.config
        reader = PixelReader.of(self.config, settings)
        return {"pixel_values": reader.batch([_picture(row) for row in rows])}


def _picture(row: EncodedRow) -> Picture:
    assert row.row is not None
    assert isinstance(row.row.content, Picture)
    return row.row.content
