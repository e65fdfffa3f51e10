"""``evertune doctor``: what a bug report needs, and the command that mends each known conflict."""

from __future__ import annotations

from typing import Any

from evertune.cli.options import JsonOption
from evertune.cli.output import console_for, result, write_json


def doctor(json_output: JsonOption = False) -> None:
    """Print versions, devices and folders, and for each known conflict the command that mends it."""
    with result(json_output=json_output):
        from evertune.cli.facts import facts
        from evertune.cli.remedies import conflicts

        known = facts()
        found = conflicts()
    if json_output:
        conflicting = [{"what": one.what, "command": one.command} for one in found]
        write_json({**known, "conflicts": conflicting})
        return
    console = console_for(json_output=False)
    for title, values in known.items():
        console.say(f"{title}:")
        for key, value in values.items():
            console.say(f"  {key}: {_shown(value)}")
    console.say()
    if not found:
        console.say("No known conflict.")
    for one in found:
        console.say(f"conflict: {one.what}\n  mend it with: {one.command}")


def _shown(value: Any) -> str:
    return {None: "-", True: "yes", False: "no"}.get(value, str(value)) if not isinstance(value, dict) else str(value)
