from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evertune.errors import ConfigError
from evertune.streams.prompts import parse_template

ALPACA = """Below is an instruction that describes a task, paired with an input that provides further context. Write a \
response that appropriately completes the request.

### Instruction:
Do

### Input:
this

### Response:
"""
ALPACA_ALONE = """Below is an instruction that describes a task. Write a response that appropriately completes \
the request.

### Instruction:
Do

### Response:
"""


def text_of(template, instruction="Do", input="this"):
    return "".join(piece.text for piece in parse_template(template).render(instruction, input))


@pytest.mark.parametrize(
    ("template", "both", "instruction_only", "input_only"),
    [
        ("none", "Do\nthis", "Do", "this"),
        ("alpaca", ALPACA, ALPACA_ALONE, ALPACA_ALONE.replace("Do", "this")),
        ("llama-inst", "[INST] Do\nthis [/INST] ", "[INST] Do [/INST] ", "[INST] this [/INST] "),
        ("{instruction}: {input}!", "Do: this!", "Do: !", ": this!"),
        ("{{x}} {input} {{", "{x} this {", "{x}  {", "{x} this {"),
    ],
)
def test_templates_to_the_letter(template, both, instruction_only, input_only):
    assert text_of(template) == both
    assert text_of(template, input="") == instruction_only
    assert text_of(template, instruction="") == input_only


@pytest.mark.parametrize("template", ["none", "alpaca", "llama-inst", "Q: {instruction} {input}\nA:"])
def test_only_the_input_may_be_cut(template):
    pieces = parse_template(template).render("Do", "this")
    assert [piece.text for piece in pieces if piece.cut] == ["this"]
    assert [piece.text for piece in parse_template(template).render("", "this") if piece.cut] == ["this"]
    assert not any(piece.cut for piece in parse_template(template).render("Do", ""))
    assert all(first.cut or second.cut for first, second in itertools.pairwise(pieces))
    assert all(piece.text for piece in pieces)


@given(st.text(), st.text())
def test_braces_of_the_data_mean_nothing(instruction, input):
    for texts in ((instruction, input), ("{input}", "{instruction}"), ("{", "}"), ("{0.__class__}", "{{}}")):
        assert text_of("A {instruction} B {input} C", *texts) == f"A {texts[0]} B {texts[1]} C"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{input} {output}",
            "stream: A template may not hold {output}: the answer is not part of the prompt. Remove it",
        ),
        (
            "{inptu}",
            "stream: The template has an unknown placeholder {inptu}. Did you mean `input`? Write {{ and }} for",
        ),
        ("{input!r}", "The placeholder {input} of the template is followed by a format. Write {input} alone."),
        ("{}", "The template has an unknown placeholder {}"),
        ("{input", "cannot be read: expected '}' before end of string. Write {{ and }} for braces."),
        ("alpacca", "The template 'alpacca' has neither {instruction} nor {input}. Did you mean `alpaca`?"),
        (
            "Say something",
            "has neither {instruction} nor {input}. Write one of none, alpaca, llama-inst, chat, or a text",
        ),
        ("", "The template '' has neither"),
    ],
)
def test_wrong_templates(template, message):
    with pytest.raises(ConfigError) as error:
        parse_template(template, where="stream")
    assert message in str(error.value)
