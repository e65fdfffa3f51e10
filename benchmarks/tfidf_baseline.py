"""A sanity line beside learning accuracy: logistic regression on TF-IDF of the very rows that a run was trained on.

    python benchmarks/tfidf_baseline.py CONFIG [RUN ...]

Prints one line a task: test accuracy of the classifier, of the majority label, and `R[i, i]` of every run given.
"""

from __future__ import annotations

import argparse
import collections
import json
from pathlib import Path

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from evertune import load_config
from evertune.console import Console


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("runs", type=Path, nargs="*")
    arguments = parser.parse_args()
    settings = load_config(arguments.config)
    stream = settings.stream.load(seed=settings.seed, console=Console())
    matrices = {run.name: json.loads((run / "matrix.json").read_text()) for run in arguments.runs}
    print("\t".join(["task", "tf-idf", "majority", *matrices]))
    totals: list[list[float]] = []
    for index, task in enumerate(stream.tasks):
        vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2)
        features = vectorizer.fit_transform([_text(row) for row in task.train])
        model = LogisticRegression(C=10, max_iter=1000).fit(features, [row.target for row in task.train])
        score = model.score(vectorizer.transform([_text(row) for row in task.test]), [row.target for row in task.test])
        majority = collections.Counter(row.target for row in task.train).most_common(1)[0][0]
        share = sum(row.target == majority for row in task.test) / len(task.test)
        learnt = [matrix["values"][index][index] for matrix in matrices.values()]
        print("\t".join([task.name, *(_shown(value) for value in (score, share, *learnt))]))
        totals.append([score, share, *(value if value is not None else float("nan") for value in learnt)])
    print("\t".join(["mean", *(_shown(sum(column) / len(column)) for column in zip(*totals, strict=True))]))


def _text(row) -> str:
    return "".join(segment.text for segment in row.prompt if segment.cut)


def _shown(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.3f}"


if __name__ == "__main__":
    main()
