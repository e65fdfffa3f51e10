"""Four topic tasks cut out of the CL benchmark, each of which a small T5 learns well when it is trained on it alone.

    python benchmarks/topic_stream.py ../shared/data/cl_benchmark/CL_Benchmark runs/topic-stream

The tasks are the rows of dbpedia by groups of its labels. Every row is ``{"sentence", "label"}`` with the published
sentence (title and text) in one line; nothing but the row itself says which task it belongs to.
"""

import argparse
import json
import re
from pathlib import Path

TASKS = {
    "people": ["Company", "Educational Institution", "Office Holder", "Athlete"],
    "places": ["Building", "Natural Place", "Village"],
    "living": ["Animal", "Plant", "Mean of Transportation"],
    "works": ["Artist", "Album", "Film", "Written Work"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("benchmark", type=Path, help="the published CL_Benchmark folder")
    parser.add_argument("output", type=Path, help="folder for one JSONL file per task and split")
    options = parser.parse_args()
    for split in ("train", "test"):
        dbpedia = json.loads((options.benchmark / "TC/dbpedia" / f"{split}.json").read_text(encoding="utf-8"))
        for task, labels in TASKS.items():
            write(options.output / f"{task}-{split}.jsonl", [row for row in dbpedia if row["label"] in labels])


def write(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            sentence = " ".join(re.sub(r"^(Title|Text):", "", line).strip() for line in row["sentence"].splitlines())
            file.write(json.dumps({"sentence": sentence.strip(), "label": row["label"]}, ensure_ascii=False) + "\n")
    print(f"{path}: {len(rows)} rows")


if __name__ == "__main__":
    main()
