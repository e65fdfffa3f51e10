"""What is published in a shape of its own: SQuAD, CASIE, RAMS, WikiEvents, ShareGPT, MNIST; and the real files."""

from __future__ import annotations

import gzip
import json
import struct

import pytest

from evertune.errors import DataError
from evertune.streams.contents import Argument, Event, Passage
from evertune.streams.instructions import Instructions, TaskSource
from evertune.streams.places import joined, nearest_place, passage_around


def load(console, **task):
    return Instructions(tasks=(TaskSource(name="t", **task),), dev_fraction=0).load(seed=1, console=console).tasks[0]


def published(console, write, name, content, **options):
    """Test rows of a file, which is train too, and the notes."""
    path = write(name, content)
    task = load(console, train=path, test=path, **options)
    return task.test, task.audit["notes"]


def refused(console, path):
    with pytest.raises(DataError) as error:
        load(console, train=path, test=path)
    return str(error.value).replace(str(path), path.name)


SQUAD = {
    "version": "2.0",
    "data": [
        {
            "title": "Cats",
            "paragraphs": [
                {
                    "context": " A cat sat.",
                    "qas": [
                        {"id": "1", "question": "Who?", "answers": [{"text": "cat", "answer_start": 3}] * 2},
                        {
                            "id": "2",
                            "question": "When?",
                            "answers": [],
                            "is_impossible": True,
                            "plausible_answers": [{"text": "sat", "answer_start": 7}],
                        },
                    ],
                },
                {
                    "context": "It ran.",
                    "qas": [{"id": "3", "question": "What?", "answers": [{"text": "It", "answer_start": 0}]}],
                },
            ],
        }
    ],
}


@pytest.mark.parametrize("indent", [None, 2])
def test_squad(console, write, indent):
    rows, notes = published(console, write, "squad.json", json.dumps(SQUAD, indent=indent))
    assert [row.content for row in rows] == [
        Passage("Who?", " A cat sat.", ("cat",), (3,)),
        Passage("When?", " A cat sat.", (), ()),
        Passage("What?", "It ran.", ("It",), (0,)),
    ]
    assert [row.id for row in rows] == ["t/test/0", "t/test/1", "t/test/2"]
    assert notes == ["Rows are {question, context, answers}."]


def test_bad_squad(console, write):
    broken = json.loads(json.dumps(SQUAD))
    broken["data"][0]["paragraphs"][0]["qas"][0]["answers"][0]["text"] = "dog"
    path = write("squad.json", json.dumps(broken))
    assert refused(console, path) == 'squad.json:1:1: The answer "dog" does not stand in the context. Correct it.'
    del broken["data"][0]["paragraphs"][0]["context"]
    path = write("none.json", json.dumps(broken))
    assert refused(console, path).startswith(
        "none.json:1: This row is not SQuAD as published: the key `context` is missing."
    )


def test_rows_under_data(console, write):
    rows, _ = published(console, write, "rows.json", json.dumps({"data": [{"text": "a", "label": "x"}] * 2}, indent=1))
    assert [row.target for row in rows] == ["x", "x"]
    rows, _ = published(console, write, "data.jsonl", [{"data": "plain", "text": "a", "label": "x"}])
    assert rows[0].prompt_text == "a"


TEXT = "Hackers leaked data of Acme. They asked Acme for $7."


def span(words, shift=0, **values):
    start = TEXT.index(words) + shift
    return {"startOffset": start, "endOffset": start + len(words), "text": words, **values}


def test_casie(console, write):
    leak = {
        "index": "E1",
        "type": "Attack",
        "subtype": "Databreach",
        "nugget": span("leaked", 1),
        "argument": [
            span("Hackers", role={"type": "Attacker"}),
            span("Acme", -2, role={"type": "Victim"}),
            {**span("data", role={"type": "Data"}), "text": "data."},
        ],
    }
    ransom = {"type": "Attack", "nugget": span("asked")}
    lost = {"type": "Attack", "nugget": {**span("asked"), "text": "begged"}, "argument": []}
    article = {"content": TEXT, "cyberevent": {"hopper": [{"events": [leak, ransom]}, {"events": [lost]}]}, "info": {}}
    rows, notes = published(console, write, "casie.jsonl", [article])
    assert [row.content for row in rows] == [
        Event(
            TEXT,
            "Attack.Databreach",
            (8, 14),
            ("Attacker", "Victim"),
            (Argument("Attacker", 0, 7), Argument("Victim", 23, 27)),
        ),
        Event(TEXT, "Attack", (34, 39), (), ()),
    ]
    # The file is read for train and for test.
    assert notes[1:] == [
        "Arguments that were left out, as their words do not stand where the data say, nor near it: 2.",
        "Events that were left out, as their trigger does not stand where the data say, nor near it: 2.",
        "Spans of CASIE that are off by a few characters and were moved to their words: 4.",
    ]


def test_rams(console, write):
    row = {
        "doc_key": "d",
        "sentences": [["They", "voted", "."], ["The", "council", "met", "in", "Lyon", "."]],
        "ent_spans": [],
        "evt_triggers": [[1, 1, [["government.vote", 1.0]]]],
        "gold_evt_links": [[[1, 1], [3, 4], "evt089arg01voter"], [[1, 1], [7, 7], "evt089arg02place"]],
    }
    rows, _ = published(console, write, "rams.jsonlines", json.dumps(row))
    text = "They voted . The council met in Lyon ."
    arguments = (Argument("voter", 13, 24), Argument("place", 32, 36))
    assert [row.content for row in rows] == [Event(text, "government.vote", (5, 10), ("place", "voter"), arguments)]
    path = write("broken.jsonlines", json.dumps({**row, "gold_evt_links": [[[1, 1], [3, 90], "x"]]}))
    assert refused(console, path) == (
        "broken.jsonlines:1: This row is not RAMS as published: there are no tokens 3 to 91."
    )


@pytest.mark.parametrize("has_text", [True, False])
def test_wiki_events(console, write, has_text):
    sentences = [
        [[["Police", 0, 6], ["came", 7, 11], [".", 11, 12]], "Police came."],
        [[["A", 12, 13], ["bomb", 14, 18], ["exploded", 19, 27]], "A bomb exploded"],
    ]
    document = {
        "doc_id": "d",
        "text": "Police came.A bomb exploded" if has_text else "",
        "sentences": sentences,
        "entity_mentions": [
            {"id": "T1", "sent_idx": 0, "start": 0, "end": 1, "text": "Police"},
            {"id": "T2", "sent_idx": 1, "start": 3, "end": 5, "text": "A bomb"},
        ],
        "event_mentions": [
            {
                "event_type": "Attack.Detonate",
                "trigger": {"start": 5, "end": 6, "text": "exploded", "sent_idx": 1},
                "arguments": [{"entity_id": "T2", "role": "Device"}, {"entity_id": "T9", "role": "Place"}],
            },
            {
                "event_type": "Move",
                "trigger": {"start": 1, "end": 2},
                "arguments": [{"entity_id": "T1", "role": "Mover"}],
            },
        ],
    }
    rows, notes = published(console, write, "wiki.jsonl", [document])
    words = [
        [each.text[slice(*each.trigger)], *(each.text[argument.start : argument.end] for argument in each.arguments)]
        for each in (row.content for row in rows)
    ]
    assert words == [["exploded", "A bomb"], ["came", "Police"]]
    assert rows[0].content.text == ("Police came.A bomb exploded" if has_text else "Police came . A bomb exploded")
    assert rows[0].content.roles == ("Device",)
    assert notes[1].startswith("Arguments that were left out")


# ShareGPT.

TOOLS = [{"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}]


def test_sharegpt(console, write):
    conversation = [
        {"from": "human", "value": "Rain in Lyon?"},
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Lyon"}}'},
        {"from": "observation", "value": '{"rain": false}'},
        {"from": "gpt", "value": "No."},
    ]
    rows = [{"conversations": conversation, "system": "Be brief.", "tools": json.dumps(TOOLS)}]
    (row,), notes = published(console, write, "talk.json", rows)
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Lyon"}}}
    assert row.messages == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Rain in Lyon?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": '{"rain": false}'},
    )
    assert (row.target, list(row.tools)) == ("No.", TOOLS)
    assert notes == ["Rows are {messages: [...]}."]
    (row,), _ = published(console, write, "call.json", [{"conversations": conversation[:2]}])
    assert json.loads(row.target) == call["function"]
    renamed = [{"talk": conversation, "rules": "Be brief."}]
    columns = {"conversations": "talk", "system": "rules"}
    (row,), _ = published(console, write, "own.json", renamed, columns=columns)
    assert (row.messages[0]["content"], row.target) == ("Be brief.", "No.")


@pytest.mark.parametrize(
    ("turn", "what"),
    [
        ({"from": "robot", "value": "x"}, 'turn 1 is from "robot", which is not one of [system, human, user, gpt'),
        ({"from": "function_call", "value": "call it"}, "the function call of turn 1 is not JSON."),
        ("hello", "`conversations` is not a list of turns."),
    ],
)
def test_bad_sharegpt(console, write, turn, what):
    path = write("talk.json", [{"conversations": [turn]}])
    assert refused(console, path).startswith(f"talk.json:1: This row is not ShareGPT as published: {what}")


# MNIST.


def idx(magic, sizes, values):
    return struct.pack(f">{1 + len(sizes)}I", magic, *sizes) + bytes(values)


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_mnist(console, write, ending):
    def packed(data):
        return gzip.compress(data) if ending else data

    for name, count in (("train", 4), ("t10k", 2)):
        write(f"{name}-images-idx3-ubyte{ending}", packed(idx(2051, (count, 2, 3), range(6 * count))))
        # One of the two may be compressed and the other not.
        write(f"{name}-labels-idx1-ubyte", idx(2049, (count,), [n % 2 for n in range(count)]))
    folder = write("here", "")
    train, test = (folder.with_name(f"{name}-images-idx3-ubyte{ending}") for name in ("train", "t10k"))
    task = load(console, train=train, test=test)
    assert [row.content.pixels for row in task.test] == [bytes(range(6)), bytes(range(6, 12))]
    assert [(row.content.width, row.target) for row in task.train] == [(3, "0"), (3, "1"), (3, "0"), (3, "1")]
    assert task.task_type == "image_classification"


@pytest.mark.parametrize(
    ("images", "labels", "what"),
    [
        (idx(2051, (2, 1, 1), [1, 2]), None, "The file of labels a-labels-idx1-ubyte is not beside it."),
        (idx(2049, (2, 1, 1), [1, 2]), b"", "a-images-idx3-ubyte begins with the number 2049 and not with 2051."),
        (idx(2051, (2, 1, 1), [1]), b"", "a-images-idx3-ubyte should hold 2 values and holds 1."),
        (b"abc", b"", "a-images-idx3-ubyte is damaged: "),
        (idx(2051, (2, 1, 1), [1, 2]), idx(2049, (1,), [1]), "There are 2 images and 1 labels."),
    ],
)
def test_bad_mnist(console, write, images, labels, what):
    path = write("a-images-idx3-ubyte", images)
    if labels is not None:
        write("a-labels-idx1-ubyte", labels)
    assert refused(console, path).startswith(f"a-images-idx3-ubyte: {what}")


def test_the_file_of_labels_is_no_file_of_images(console, write):
    path = write("a-labels-idx1-ubyte", idx(2049, (1,), [1]))
    assert "This is no file of images" in refused(console, path) or "begins with the number 2049" in refused(
        console, path
    )


# Places.


def test_places_of_words():
    text = "ab ab ab"
    assert [nearest_place(text, "ab", start) for start in (-9, 0, 1, 2, 4, 5, 99)] == [0, 0, 0, 3, 3, 6, 6]
    assert [nearest_place(text, "ab", start, most=1) for start in (1, 8, -2)] == [0, None, None]
    assert nearest_place(text, "x", 0) is None
    assert joined(["a", "bcd"]) == ("a bcd", [(0, 1), (2, 5)])


def test_passages_hold_their_place():
    text = " ".join(f"word{n}" for n in range(300))
    for words in ("word0", "word7", "word150", "word299"):
        start = text.index(words)
        first, end = passage_around(text, (start, start + len(words)), 200)
        assert words in text[first:end]
        assert 180 <= end - first <= 200
        assert set(text[first:end].split()) <= set(text.split())
    assert passage_around(text, (0, 5), len(text)) == (0, len(text))
    assert passage_around("x" * 900, (400, 410), 100) == (355, 455)
    assert passage_around(text, (100, 400), 50) == (100, 400)


# The real files.


@pytest.mark.shared_data
def test_published_events(console, shared_data):
    counts = {}
    for name, ending in (("casie", "jsonl"), ("rams", "jsonlines"), ("wikievents", "jsonl")):
        train, test = (shared_data / "eae" / name / f"{split}.{ending}" for split in ("train", "test"))
        task = load(console, train=train, test=test)
        rows = (*task.train, *task.test)
        counts[name] = (len(rows), sum(len(row.content.arguments) for row in rows))
        assert task.audit["duplicates"]["test in train"] == 0
    raw = dict.fromkeys(counts, 0)
    for split in ("train", "test"):
        for line in (shared_data / "eae" / "casie" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
            raw["casie"] += sum(len(hopper["events"]) for hopper in json.loads(line)["cyberevent"]["hopper"])
        for line in (shared_data / "eae" / "rams" / f"{split}.jsonlines").read_text(encoding="utf-8").splitlines():
            raw["rams"] += len(json.loads(line)["evt_triggers"])
        for line in (shared_data / "eae" / "wikievents" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
            raw["wikievents"] += len(json.loads(line)["event_mentions"])
    assert {name: count for name, (count, _) in counts.items()} == {**raw, "casie": raw["casie"] - 1}
    assert all(arguments > count / 2 for count, arguments in counts.values())


@pytest.mark.shared_data
def test_spans_of_casie_are_their_words(console, shared_data):
    path = shared_data / "eae" / "casie" / "dev.jsonl"
    task = load(console, train=path, test=path)
    found = {}
    for row in task.test:
        event = row.content
        spans = [event.trigger, *((each.start, each.end) for each in event.arguments)]
        found.setdefault(event.text, []).extend(event.text[start:end] for start, end in spans)
    total = right = 0
    for line in path.read_text(encoding="utf-8").splitlines():
        article = json.loads(line)
        mentions = [event for hopper in article["cyberevent"]["hopper"] for event in hopper["events"]]
        words = [span["text"] for event in mentions for span in (event["nugget"], *event.get("argument", ()))]
        total += len(words)
        right += sum(written == read for written, read in zip(words, found[article["content"]], strict=True))
    assert total > 300
    assert right / total >= 0.99


@pytest.mark.shared_data
def test_published_files_of_other_kinds(console, shared_data):
    ner = load(
        console,
        train=shared_data / "token_cls" / "wnut17" / "train.jsonl",
        test=shared_data / "token_cls" / "wnut17" / "test.jsonl",
    )
    assert (len(ner.train), len(ner.test), ner.metric) == (1000, 300, "entity_f1")
    questions = 0
    for language in ("en", "zh", "de"):
        folder = shared_data / "qa" / "xquad" / language
        task = load(console, train=folder / "train.json", test=folder / "test.json")
        passages = [row.content for row in (*task.train, *task.test)]
        questions += len(passages)
        for each in passages:
            for answer, start in zip(each.answers, each.starts, strict=True):
                assert each.context[start : start + len(answer)] == answer
    assert questions == 3 * (703 + 161)
    vision = shared_data / "vision"
    mnist = load(
        console,
        train=vision / "mnist" / "train-images-idx3-ubyte.gz",
        test=vision / "mnist" / "t10k-images-idx3-ubyte.gz",
    )
    assert (len(mnist.train), len(mnist.test), len(mnist.labels)) == (2000, 500, 10)
    digits = load(console, train=vision / "digits" / "train.jsonl", test=vision / "digits" / "test.jsonl")
    assert max(max(row.content.pixels) for row in digits.test) == 255
    captions = vision / "digits_captions"
    drawn = load(console, train=captions / "captions_train.jsonl", test=captions / "captions_test.jsonl")
    assert (drawn.task_type, len(drawn.train)) == ("text_to_image", 160)
    adgen = load(console, train=shared_data / "adgen" / "train.json", test=shared_data / "adgen" / "test.json")
    assert (len(adgen.train), adgen.train[0].content) == (773, None)
