"""Rows that hold more than text: what encoders read of them, and what language models read and write."""

from __future__ import annotations

import hashlib
import io
import json

import datasets
import pytest
from PIL import Image

from evertune.errors import ConfigError, DataError
from evertune.streams.content_formats import iob2
from evertune.streams.contents import Argument, Event, Passage, Picture, TaggedTokens
from evertune.streams.instructions import Instructions, TaskSource
from evertune.streams.row_values import BadRow


def load(console, task, **stream):
    return Instructions(tasks=(task,), **stream).load(seed=1, console=console).tasks[0]


def problem(console, write, rows, name="rows.jsonl", **options):
    path = write(name, rows)
    with pytest.raises(DataError) as error:
        load(console, TaskSource(name="t", train=path, test=path, **options))
    return str(error.value).splitlines()[0].replace(f"{path}", name, 1)


def everything(task):
    return sorted((row for split in ("train", "dev", "test") for row in task.rows(split)), key=lambda row: row.id[-3:])


# Tokens and tags.

SENTENCES = [
    {"tokens": [f"Ann{n}", "saw", "New", "York"], "tags": ["B-person", "O", "B-city", "I-city"]} for n in range(10)
]


def test_tagged_tokens(console, write):
    path = write("ner.jsonl", SENTENCES)
    task = load(console, TaskSource(name="ner", train=path, test=path), dev_fraction=0)
    row = task.test[3]
    assert row.content == TaggedTokens(("Ann3", "saw", "New", "York"), ("B-person", "O", "B-city", "I-city"))
    assert row.target == '[{"type": "person", "text": "Ann3"}, {"type": "city", "text": "New York"}]'
    assert row.prompt_text == (
        'Name the entities of these types in the text: city, person. Answer with a JSON list of objects with "type" '
        'and "text".\nAnn3 saw New York\nEntities:'
    )
    assert [(segment.text, segment.cut) for segment in row.prompt][1:] == [
        ("Ann3 saw New York", True),
        ("\nEntities:", False),
    ]
    assert (task.metric, task.labels, task.task_type) == ("entity_f1", None, "token_classification")
    assert task.audit["notes"] == ["Rows are {tokens, tags}."]
    assert row.scorer_facts["entities"]["tags"] == ("B-person", "O", "B-city", "I-city")


def test_the_usual_instruction_gives_way(console, write):
    path = write("ner.jsonl", SENTENCES)
    task = load(console, TaskSource(name="ner", train=path, instruction="Find them:", template="alpaca"))
    assert "### Instruction:\nFind them:\n\n### Input:\nAnn" in task.train[0].prompt_text
    assert task.train[0].prompt_text.endswith("saw New York\nEntities:\n\n### Response:\n")
    chat = load(console, TaskSource(name="ner", train=path, instruction="Find them:", template="chat")).train[0]
    assert chat.messages[0]["content"].startswith("Find them:\nAnn")
    assert chat.content is not None
    bare = load(console, TaskSource(name="ner", train=path, template="<{input}>")).train[0]
    assert bare.prompt_text.startswith("<Ann")
    with pytest.raises(ConfigError, match=r"The template has no \{instruction\}"):
        load(console, TaskSource(name="ner", train=path, template="<{input}>", instruction="Find them:"))


@pytest.mark.parametrize(
    ("written", "uniform"),
    [
        ("B-a I-a O B-b", "B-a I-a O B-b"),
        ("I-a I-a B-a O I-b I-a", "B-a I-a B-a O B-b B-a"),  # IOB1
        ("B-a I-a E-a S-b E-c O", "B-a I-a I-a B-b B-c O"),  # IOBES
        ("B-a L-a U-a I-a", "B-a I-a B-a B-a"),  # BILOU
        ("I-a E-a I-a", "B-a I-a B-a"),  # IOE
        ("B-creative-work I-creative-work", "B-creative-work I-creative-work"),
    ],
)
def test_tags_of_other_schemes(written, uniform):
    assert iob2(written.split()) == uniform.split()
    assert iob2(uniform.split()) == uniform.split()


def test_tags_that_are_none():
    for wrong in ("person", "B-", "X-person", "b-a", ""):
        with pytest.raises(BadRow, match="is no tag"):
            iob2([wrong])


def test_other_schemes_are_counted(console, write):
    rows = [{"tokens": [f"a{n}", "b"], "ner_tags": ["I-x", "O"] if n < 4 else ["B-x", "O"]} for n in range(10)]
    path = write("ner.jsonl", rows)
    task = load(console, TaskSource(name="ner", train=path, test=path))
    assert "Rows whose tags were turned into the scheme IOB2: 8." in task.audit["notes"]
    assert {tag for row in everything(task) for tag in row.content.tags} == {"O", "B-x"}


def test_tags_that_are_numbers(console, write):
    rows = [{"tokens": [f"a{n}", "b"], "tags": [1, 0]} for n in range(10)]
    path = write("ner.jsonl", rows)
    task = load(console, TaskSource(name="ner", train=path, labels=("O", "B-x")))
    assert task.train[0].content.tags == ("B-x", "O")
    assert task.labels is None
    assert problem(console, write, rows) == (
        "rows.jsonl:1: The tag 1 is a number, and no name is listed. List the tags under `labels`, in the order of "
        "their numbers: `labels: [O, B-person, ...]`."
    )
    beyond = [{"tokens": ["a"], "tags": [2]}]
    assert "The tag 2 is a number, and only 2 names are listed." in problem(console, write, beyond, labels=("O", "B-x"))
    other = [{"tokens": ["a"], "tags": ["B-y"]}]
    assert 'The tag "B-y" is not listed under `labels`.' in problem(console, write, other, labels=("O", "B-x"))


def test_tags_that_a_saved_data_set_names(console, tmp_path):
    names = datasets.ClassLabel(names=["O", "B-x"])
    features = datasets.Features({"tokens": datasets.List(datasets.Value("string")), "ner_tags": datasets.List(names)})
    rows = [{"tokens": [f"a{n}", "b"], "ner_tags": [1, 0]} for n in range(10)]
    dataset = datasets.Dataset.from_list(rows, features=features)
    dataset.save_to_disk(tmp_path / "saved")
    dataset.to_parquet(tmp_path / "rows.parquet")
    for path in (tmp_path / "saved", tmp_path / "rows.parquet"):
        assert load(console, TaskSource(name="ner", train=path)).train[0].content.tags == ("B-x", "O")


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"tokens": ["a"], "tags": ["O", "O"]}, "There are 1 tokens, and `tags` has 2. Write one tag a token."),
        ({"tokens": [], "tags": []}, "`tokens` is a list ([]), not a list of words."),
        ({"tokens": ["a"], "tags": [None]}, "A tag is NoneType (None), neither text nor a number."),
        (
            {"tokens": ["a"], "tags": ["person"]},
            '"person" is no tag. Write `O`, or `B-` and `I-` with a type: `B-person`.',
        ),
    ],
)
def test_bad_tags(console, write, row, what):
    assert problem(console, write, [row]) == f"rows.jsonl:1: {what}"


# Questions on passages.

CONTEXT = " The cat sat.\nThe cat left at 8.  "


def squad(number=0, **values):
    answers = {"text": ["cat"], "answer_start": [5]}
    return {"id": str(number), "question": f"Who {number}?", "context": CONTEXT, "answers": answers, **values}


def test_passages(console, write):
    path = write("qa.jsonl", [squad(n) for n in range(3)])
    task = load(console, TaskSource(name="qa", train=path, test=path), dev_fraction=0)
    row = task.test[1]
    assert row.content == Passage("Who 1?", CONTEXT, ("cat",), (5,))
    assert row.content.context[5:8] == "cat"
    assert row.target == "cat"
    assert [(segment.text, segment.cut) for segment in row.prompt] == [
        ("Answer the question with words of the text.\n", False),
        (CONTEXT, True),
        ("\nQuestion: Who 1?\nAnswer:", False),
    ]
    assert (task.metric, task.task_type) == ("squad_f1", "question_answering")
    assert row.scorer_facts == {"passage": {"answers": ("cat",)}}


def test_questions_without_an_answer(console, write):
    rows = [
        squad(1),
        squad(2, answers={"text": [], "answer_start": []}),
        squad(3, is_impossible=True),
        squad(4, answers=[]),
    ]
    path = write("qa.jsonl", rows)
    task = load(console, TaskSource(name="qa", train=path, test=path), dev_fraction=0)
    assert [row.target for row in task.test] == ["cat", *["unanswerable"] * 3]
    assert [row.content.starts for row in task.test] == [(5,), (), (), ()]
    assert task.test[0].prompt_text.startswith(
        'Answer the question with words of the text. Write "unanswerable" if the text does not answer it.\n'
    )


def test_starts_are_repaired(console, write):
    rows = [squad(n, answers=[{"text": "cat", "answer_start": start}]) for n, start in enumerate((5, 6, 17, 99, -4))]
    path = write("qa.jsonl", rows)
    task = load(console, TaskSource(name="qa", train=path, test=path), dev_fraction=0)
    assert [row.content.starts for row in task.test] == [(5,), (5,), (18,), (18,), (5,)]
    assert task.audit["notes"][1] == (
        "Answers that do not stand where the data say and were moved to where they do: 8."
    )


@pytest.mark.parametrize(
    ("values", "what"),
    [
        (
            {"answers": {"text": ["dog"], "answer_start": [5]}},
            'The answer "dog" does not stand in the context. Correct it.',
        ),
        ({"answers": {"text": ["cat"]}}, "`answers` is an object ({'text': ['cat']}). Write"),
        ({"answers": {"text": ["cat"], "answer_start": ["5"]}}, "`answers` is an object"),
        ({"answers": 3}, "`answers` is a number (3). Write `{text: [...], answer_start: [...]}` with as many of both."),
        ({"question": " "}, "`question` is blank."),
        ({"context": 3}, "`context` is a number (3), not text."),
    ],
)
def test_bad_passages(console, write, values, what):
    assert problem(console, write, [squad(**values)]).startswith(f"rows.jsonl:1: {what}")


def test_questions_on_one_passage_stay_together(console, write):
    rows = [squad(n, context=f"{CONTEXT}{n // 5}") for n in range(50)]
    task = load(console, TaskSource(name="qa", train=write("qa.jsonl", rows)), dev_fraction=0.2, test_fraction=0.2)
    contexts = [{row.content.context for row in task.rows(split)} for split in ("train", "dev", "test")]
    assert [len(each) for each in contexts] == [7, 1, 2]
    assert len(set.union(*contexts)) == 10


# Events.

TEXT = "On Monday a gang stole data from a bank in Lyon."


def place(words, text=TEXT):
    return {"start": text.index(words), "end": text.index(words) + len(words)}


def theft(text=TEXT, **values):
    arguments = [{"role": "thief", **place("a gang", text)}, {"role": "loot", **place("data", text), "text": "data"}]
    return {"text": text, "type": "Theft", "trigger": place("stole", text), "arguments": arguments, **values}


def test_events(console, write):
    rows = [theft(), theft(arguments=[{"role": "place", **place("Lyon"), "head": [43, 47]}]), theft(roles=["victim"])]
    path = write("events.jsonl", rows)
    task = load(console, TaskSource(name="e", train=path, test=path), dev_fraction=0)
    roles = ("loot", "place", "thief", "victim")
    first, second, _ = task.test
    assert first.content == Event(TEXT, "Theft", (17, 22), roles, (Argument("thief", 10, 16), Argument("loot", 23, 27)))
    assert second.content.arguments == (Argument("place", 43, 47, (43, 47)),)
    assert json.loads(first.target) == {"loot": ["data"], "place": [], "thief": ["a gang"], "victim": []}
    assert first.prompt_text == (
        "Which words of the text play the roles of the event that is marked by **? Answer in JSON with a list of words "
        "for every role.\nOn Monday a gang ** stole ** data from a bank in Lyon.\nEvent: Theft, stole\n"
        "Roles: loot, place, thief, victim\nArguments:"
    )
    assert (task.metric, task.task_type) == ("argument_f1", "argument_extraction")


def test_roles_are_those_of_training(console, write):
    other = {**theft(), "type": "Sale", "arguments": [{"role": "price", **place("data")}]}
    train = write("train.jsonl", [theft(), {**other, "arguments": [{"role": "seller", **place("bank")}]}])
    test = write(
        "test.jsonl", [theft(), other, {**other, "type": "Gift"}, {**other, "type": "Loan", "roles": ["lender"]}]
    )
    task = load(console, TaskSource(name="e", train=train, test=test), dev_fraction=0)
    assert [row.content.roles for row in task.test] == [
        ("loot", "thief"),
        ("seller",),  # the price of the test row is not asked for: that would tell that there is one
        ("loot", "seller", "thief"),
        ("lender",),
    ]


def test_events_in_tokens(console, write):
    row = {"tokens": TEXT.split(), "type": "Theft", "trigger": [4, 5]}
    row["arguments"] = [{"role": "thief", "start": 2, "end": 4, "head": {"start": 3, "end": 4}}]
    path = write("events.jsonl", [row])
    event = load(console, TaskSource(name="e", train=path, test=path), dev_fraction=0).test[0].content
    assert event == Event(TEXT, "Theft", (17, 22), ("thief",), (Argument("thief", 10, 16, (12, 16)),))


def test_a_language_model_reads_the_passage_around_the_event(console, write):
    text = f"{'far off ' * 400}{TEXT} {'and on ' * 400}"
    far = {"role": "far", "start": 0, "end": 3}
    row = theft(text)
    row["arguments"].append(far)
    path = write("events.jsonl", [row])
    found = load(console, TaskSource(name="e", train=path, test=path), dev_fraction=0).test[0]
    passage = found.prompt[1].text
    assert found.prompt[1].cut
    assert 1500 < len(passage) <= 1600 + len("**  **")
    assert "a gang ** stole ** data" in passage
    assert abs(passage.index("**") - len(passage) / 2) < 60
    assert passage.startswith(("far ", "off "))
    assert json.loads(found.target) == {"far": [], "loot": ["data"], "thief": ["a gang"]}
    # What scorers and encoders see is the whole document.
    assert found.content.text == text
    assert len(found.scorer_facts["event"]["arguments"]) == 3


def test_spans_with_words_are_repaired(console, write):
    moved = theft(trigger={"start": 16, "end": 21, "text": "stole"})
    path = write("events.jsonl", [moved])
    task = load(console, TaskSource(name="e", train=path, test=path), dev_fraction=0)
    assert task.test[0].content.trigger == (17, 22)
    note = "Spans of events that do not stand where the data say and were moved to where they do: 2."
    assert task.audit["notes"][1] == note
    assert f"e: {note}" in console.out.getvalue()


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"trigger": {"start": 3, "end": 90}}, "The trigger from 3 to 90 does not lie in the text of 48 characters."),
        ({"trigger": [5, 5]}, "The trigger from 5 to 5 does not lie in the text of 48 characters."),
        ({"trigger": "stole"}, "The place of the trigger is str (stole). Write `{start: 10, end: 18}`, in characters."),
        ({"type": None}, "`type` is blank."),
        ({"arguments": [{**place("data"), "role": ""}]}, "`role` is blank."),
        ({"arguments": ["data"]}, "`arguments` is a list (['data']), not a list of objects."),
        (
            {"arguments": [{"role": "loot", "start": 0, "end": 4, "text": "data"}]},
            'The argument loot "data" does not stand at 0 to 4, nor near it.',
        ),
    ],
)
def test_bad_events(console, write, values, what):
    assert problem(console, write, [theft(**values)]) == f"rows.jsonl:1: {what}"


def test_events_of_one_document_stay_together(console, write):
    rows = [theft(f"{n // 4} {TEXT}", roles=[f"r{n}"]) for n in range(40)]
    task = load(console, TaskSource(name="e", train=write("e.jsonl", rows)), dev_fraction=0.2, test_fraction=0.2)
    texts = [{row.content.text for row in task.rows(split)} for split in ("train", "dev", "test")]
    assert sum(map(len, texts)) == len(set.union(*texts)) == 10


# Images.


@pytest.fixture
def images(tmp_path):
    """Ten small images below ``images``."""
    (tmp_path / "images").mkdir()
    for number in range(10):
        Image.new("L", (4, 4), 20 * number).save(tmp_path / "images" / f"{number}.png")
    return tmp_path / "images"


def test_labelled_images(console, write, images):
    rows = [{"image": f"images/{n}.png", "label": n % 2} for n in range(10)]
    path = write("rows.jsonl", rows)
    task = load(console, TaskSource(name="i", train=path, test=path), dev_fraction=0)
    digest = hashlib.sha256((images / "3.png").read_bytes()).hexdigest()
    assert task.test[3].content == Picture(str(images / "3.png"), digest)
    assert (task.test[3].target, task.test[3].prompt, task.test[3].messages) == ("1", (), ())
    assert (task.metric, task.labels, task.task_type) == ("accuracy", ("0", "1"), "image_classification")
    # Prompts are all empty; the images are not all the same.
    assert task.audit["duplicates"]["test"] == 0
    assert task.audit["contradictory_labels"]["count"] == 0


def test_image_files_are_found_from_the_file_of_rows(console, write, images, monkeypatch):
    path = write("below/rows.jsonl", [{"picture": f"../images/{n}.png", "label": n % 2} for n in range(10)])
    monkeypatch.chdir("/")
    task = load(console, TaskSource(name="i", train=path, columns={"image": "picture"}))
    assert len(everything(task)) == 10


def test_captioned_images(console, write, images):
    rows = [{"image": f"images/{n}.png", "caption": f"grey {n}", "label": n % 2} for n in range(10)]
    path = write("rows.jsonl", rows)
    task = load(console, TaskSource(name="i", train=path, test=path))
    assert (task.metric, task.labels, task.task_type) == ("noise_explained", None, "text_to_image")
    assert (task.test[2].target, task.test[2].content.caption) == ("grey 2", True)
    named = load(console, TaskSource(name="i", train=path, format="image-label"))
    assert (named.labels, named.task_type) == (("0", "1"), "image_classification")
    with pytest.raises(ConfigError, match=r"There is no row format `image-lable`\. Did you mean `image-label`\?"):
        load(console, TaskSource(name="i", train=path, format="image-lable"))
    for option in ("instruction", "system"):
        with pytest.raises(ConfigError, match="Rows of images have no prompt to put it into"):
            load(console, TaskSource(name="i", train=path, **{option: "Draw"}))


def test_images_that_a_data_set_holds(console, tmp_path):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["dark", "light"])})
    rows = [{"image": Image.new("L", (4, 4), 20 * n), "label": n // 5} for n in range(10)]
    dataset = datasets.Dataset.from_list(rows, features=features)
    dataset.save_to_disk(tmp_path / "saved")
    dataset.to_parquet(tmp_path / "rows.parquet")
    for path in (tmp_path / "saved", tmp_path / "rows.parquet"):
        task = load(console, TaskSource(name="i", train=path, test=path), dev_fraction=0)
        content = task.test[3].content
        assert (content.path, content.sha256) == ("", hashlib.sha256(content.data).hexdigest())
        with Image.open(io.BytesIO(content.data)) as image:
            assert (image.size, image.getpixel((0, 0))) == ((4, 4), 60)
        assert [row.target for row in task.test] == ["dark"] * 5 + ["light"] * 5


def test_pixels(console, write):
    rows = [{"pixels": [0, 8, 16, n], "label": n % 2} for n in range(10)]
    path = write("rows.jsonl", rows)
    task = load(console, TaskSource(name="i", train=path, test=path), dev_fraction=0)
    assert task.test[4].content.pixels == bytes([0, 128, 255, 64])
    assert (task.test[4].content.width, task.test[4].content.path) == (2, "")
    assert task.audit["duplicates"]["test"] == 0
    wide = load(console, TaskSource(name="i", train=write("wide.jsonl", [{**row, "width": 4} for row in rows])))
    assert wide.train[0].content.width == 4
    bright = write("bright.jsonl", [{"pixels": [0, 8, 16, 255], "label": 1}, {"pixels": [0, 9, 16, 17], "label": 0}])
    assert load(console, TaskSource(name="i", train=bright, test=bright)).test[1].content.pixels == bytes(
        [0, 9, 16, 17]
    )


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"image": "images/no.png", "label": 1}, "There is no image {folder}/images/no.png. Write its path relative"),
        ({"image": "rows.jsonl", "label": 1}, "{folder}/rows.jsonl is no image that Pillow reads."),
        ({"image": 3, "label": 1}, "`image` is a number (3), not the path of an image."),
        ({"image": "images/0.png", "label": " "}, "The answer `label` is blank."),
        ({"image": "images/0.png", "text": ""}, "The answer `text` is blank."),
        ({"pixels": [1, 2, 3], "label": 1}, "3 pixels are no square. Add `width`."),
        ({"pixels": [1, 2, 3], "label": 1, "width": 2}, "3 pixels are no rows of 2."),
        ({"pixels": [-1], "label": 1}, "`pixels` is a list ([-1]), not a list of numbers from 0 to 255. Correct it."),
        ({"pixels": [], "label": 1}, "0 pixels are no rows of 0."),
    ],
)
def test_bad_images(console, write, images, tmp_path, row, what):
    assert problem(console, write, [row]).startswith(f"rows.jsonl:1: {what.format(folder=tmp_path)}")


def test_missing_keys_are_named(console, write):
    assert problem(console, write, [SENTENCES[0], {"tokens": ["a"]}]) == (
        "rows.jsonl:2: The key `tags` is missing; rows of this file are {tokens, tags}, the keys are [tokens]."
    )


def test_pairs_of_content_and_summary(console, write):
    path = write("ad.json", "\n".join(json.dumps({"content": f"c{n}", "summary": f"s{n}"}) for n in range(10)))
    task = load(console, TaskSource(name="ad", train=path, metrics=("bleu4",)))
    assert (task.metric, task.train[0].content) == ("bleu4", None)
    assert {row.prompt_text[1:] == row.target[1:] for row in everything(task)} == {True}


def test_metrics_of_another_kind_are_refused(console, write):
    path = write("ner.jsonl", SENTENCES)
    with pytest.raises(
        DataError, match=r"It is no row of \{question, context, answers\}\. The metric squad_f1 needs it\."
    ):
        load(console, TaskSource(name="ner", train=path, metrics=("squad_f1",)))
