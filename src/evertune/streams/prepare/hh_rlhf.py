"""HH-RLHF (Bai et al. 2022, arXiv:2204.05862), harmless subset: conversations with a preferred last reply and another.

A row is split at the last turn of the assistant: only the preferred reply is learnt, and never the turns of a person.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from evertune.streams.prepare.rows import Converted, Dropped, PreparedRow
from evertune.streams.prepare.sources import Hub, Source

INSTRUCTION = "Write the next reply of the assistant in this conversation."
HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
_SPEAKER = re.compile(r"^\s*(Human|Assistant):", re.MULTILINE)


def _split(transcript: Any) -> tuple[str, str] | None:
    """Conversation and last reply, or None where no reply ends the transcript."""
    if not isinstance(transcript, str):
        return None
    conversation, found, reply = transcript.rpartition(ASSISTANT)
    if not found or HUMAN in reply or HUMAN not in conversation:
        return None
    return conversation.strip(), reply.strip()


def convert(value: Mapping[str, Any]) -> Converted:
    """The conversation as input, the preferred reply as output, the other kept for scoring."""
    chosen, rejected = _split(value.get("chosen")), _split(value.get("rejected"))
    if chosen is None or rejected is None:
        yield Dropped("no reply of the assistant ends the conversation")
    elif chosen[0] != rejected[0]:
        yield Dropped("the two replies belong to different conversations")
    elif chosen[1] == rejected[1]:
        yield Dropped("the two replies are equal")
    elif any(_SPEAKER.search(reply) for _, reply in (chosen, rejected)):
        yield Dropped("a reply that goes on with the conversation")
    elif not rejected[1]:
        yield Dropped("blank rejected reply")
    else:
        yield PreparedRow(INSTRUCTION, *chosen, {"rejected": rejected[1]}, fixed_instruction=True)


HH_RLHF = Source(
    name="hh_rlhf",
    folder="hh_rlhf",
    train=("harmless-base/train.jsonl.gz", "harmless-base/train.jsonl"),
    test=("harmless-base/test.jsonl.gz", "harmless-base/test.jsonl"),
    hub=Hub("Anthropic/hh-rlhf", folder="harmless-base", has_test=True),
    licence="MIT; holds offensive text, meant for research on making models less harmful",
    convert=convert,
)
