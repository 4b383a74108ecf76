"""Compare the embedded studies with the paper's claims.

python benchmarks/claims.py --model_dir=runs/study

Reads the studies' CSV files (written by `make studies`) and prints a Markdown table. A
difference is computed in the claim's direction for each seed, averaged over the claim's
columns. The claim is reproduced if the 95 % interval of the mean (Student's t over the
seeds) lies above 0, not reproduced if below, otherwise not decided. Counts are compared
by Fisher's exact test at the same level.
`--record` stores table, CSV files and figures in benchmarks/results/studies/. The last
line of the output is JSON.
"""

import argparse
import csv
import json
import math
import pathlib
import shutil
import statistics

from scipy import stats

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "studies"
NAMES = ("table_2", "table_3", "table_7", "table_10", "figure_2")
STUDIES = tuple(f"digits_{name}" for name in NAMES)

ALL = ("S1", "S2", "S3", "S4")
SHARES = ("20 %", "50 %", "100 %")
SELF = "Rand Init + self-training"

# Study, claim, the paper's figures, and the measured sum of terms: (factor, row,
# columns to average).
DIFFERENCES = (
    (
        "digits_table_2",
        "Pre-training is worth less with S4 than with S1",
        "+1.3 (-1.0 against +0.3)",
        (
            (1, "pre-trained", ("S1",)),
            (-1, "Rand Init", ("S1",)),
            (-1, "pre-trained", ("S4",)),
            (1, "Rand Init", ("S4",)),
        ),
    ),
    (
        "digits_table_2",
        "Pre-training hurts with the strongest augmentation, S4",
        "+1.0 for Rand Init",
        ((1, "Rand Init", ("S4",)), (-1, "pre-trained", ("S4",))),
    ),
    (
        "digits_table_2",
        "Self-training helps, mean over S1 to S4",
        "+1.3 to +1.7",
        ((1, SELF, ALL), (-1, "Rand Init", ALL)),
    ),
    (
        "digits_table_2",
        "... beyond a control of the same steps (ours), mean over S1 to S4",
        "",
        ((1, SELF, ALL), (-1, "control", ALL)),
    ),
    (
        "digits_table_2",
        "Self-training helps with the strongest augmentation, S4",
        "+1.3",
        ((1, SELF, ("S4",)), (-1, "Rand Init", ("S4",))),
    ),
    (
        "digits_table_3",
        "Self-training helps, mean over 20, 50 and 100 % of the labels",
        "+3.4, +1.8, +1.3",
        ((1, SELF, SHARES), (-1, "Rand Init", SHARES)),
    ),
    (
        "digits_table_3",
        "Self-training is worth more with 20 % of the labels than with 100 %",
        "+2.1 (+3.4 against +1.3)",
        (
            (1, SELF, ("20 %",)),
            (-1, "Rand Init", ("20 %",)),
            (-1, SELF, ("100 %",)),
            (1, "Rand Init", ("100 %",)),
        ),
    ),
    (
        "digits_table_7",
        "Joint training helps",
        "+2.9",
        ((1, "+ joint training", ("20 %",)), (-1, "supervised", ("20 %",))),
    ),
    (
        "digits_table_7",
        "Joint training adds to self-training",
        "+1.0",
        ((1, "+ both", ("20 %",)), (-1, "+ self-training", ("20 %",))),
    ),
    (
        "digits_table_10",
        "A start from the teacher is better, same steps",
        "",
        (
            (1, "student from teacher", ("400 steps",)),
            (-1, "student from scratch", ("400 steps",)),
        ),
    ),
    (
        "digits_table_10",
        "... even against three times the steps from scratch",
        "+0.4 (1.5 times the steps)",
        (
            (1, "student from teacher", ("400 steps",)),
            (-1, "student from scratch", ("1,200 steps",)),
        ),
    ),
)


def main():
    """Print the table of claims."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model_dir", default="runs/study")
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    folder = pathlib.Path(arguments.model_dir)
    tables = {name: read(folder / f"{name}.csv") for name in STUDIES}
    rows = [difference(tables[study], *rest) for study, *rest in DIFFERENCES]
    studies = [study for study, *_ in DIFFERENCES]
    for row in losses(tables["digits_figure_2"]):
        rows.append(row)
        studies.append("digits_figure_2")
    header = ("claim", "paper", "here: mean ± sd (95 %), seeds", "verdict", "command")
    lines = [f"| {' | '.join(header)} |", "|---|---|---|---|---|"]
    for row, name in zip(rows, studies):
        command = (
            f"python -m official_selftrain.study --gin_file=gin/study/{name}.gin "
            "--model_dir=runs/study"
        )
        lines.append(f"| {' | '.join(row)} | `{command}` |")
    lines += ["", cost(tables["digits_table_2"])]
    text = "\n".join(lines) + "\n"
    print(text)
    verdicts = {row[0]: row[3] for row in rows}
    print(json.dumps({"benchmark": "claims", "ratios": {}, "figures": verdicts}))
    if arguments.record:
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / "claims.md").write_text(text)
        for name in STUDIES:
            for ending in ("csv", "md", "png"):
                shutil.copy(folder / f"{name}.{ending}", RESULTS)


def read(path):
    """Return {(row, column, seed): cell} of a study's CSV file."""
    if not path.exists():
        raise SystemExit(f"claims: Expected {path}. Make it with: make studies")
    with open(path, newline="") as file:
        return {(c["row"], c["column"], c["seed"]): c for c in csv.DictReader(file)}


def difference(cells, claim, paper, terms):
    """Return the table row of a claim."""
    seeds = sorted({seed for _, _, seed in cells})
    values = []
    for seed in seeds:
        total = 0.0
        for factor, row, columns in terms:
            of_row = [number(cells[row, column, seed]["AP"]) for column in columns]
            total += factor * statistics.fmean(of_row)
        values.append(total)
    return claim, paper, *judged(values)


def number(text):
    """Return the value of a cell, NaN if empty."""
    return float(text) if text else math.nan


def judged(values):
    """Return the differences over the seeds as text, and the verdict on their mean."""
    kept = [value for value in values if not math.isnan(value)]
    if len(kept) < 2:
        return f"{len(kept)} of {len(values)} seeds", "not decided"
    mean, deviation = statistics.fmean(kept), statistics.stdev(kept)
    half = stats.t.ppf(0.975, len(kept) - 1) * deviation / math.sqrt(len(kept))
    text = f"{mean:+.1f} ± {deviation:.1f} ({mean - half:+.1f} to {mean + half:+.1f})"
    if mean - half > 0.0:
        verdict = "reproduced"
    elif mean + half < 0.0:
        verdict = "not reproduced"
    else:
        verdict = "not decided"
    return f"{text}, {len(kept)}", verdict


def counted(more, fewer):
    """Return whether one count is greater: Fisher's exact test at 2.5 %."""
    table = [[count, of - count] for count, of in (more, fewer)]
    if stats.fisher_exact(table, "greater").pvalue < 0.025:
        return "reproduced"
    if stats.fisher_exact(table, "less").pvalue < 0.025:
        return "not reproduced"
    return "not decided"


def losses(cells):
    """Return the table rows on the plain sum and the normalized loss."""
    counts = []
    for name in ("plain sum", "normalized"):
        runs = [
            cell
            for key, cell in cells.items()
            if key[0].startswith(name) and cell["status"] != "failed"
        ]
        diverged = [cell for cell in runs if cell["status"] == "diverged"]
        lost = [
            cell
            for cell in runs
            if cell["AP"] and float(cell["AP"]) < float(cell["teacher_AP"])
        ]
        counts.append((len(diverged), len(lost), len(runs)))
    (plain, plain_lost, plain_runs), (died, died_lost, runs) = counts
    rows = [
        (
            "The plain sum diverges where the normalized loss doesn't",
            "13 of 33 against 0 of 33",
            f"{plain} of {plain_runs} against {died} of {runs}",
            counted((plain, plain_runs), (died, runs)),
        ),
        (
            "... or ends below its teacher's AP (ours)",
            "",
            f"{plain_lost} of {plain_runs} against {died_lost} of {runs}",
            counted((plain_lost, plain_runs), (died_lost, runs)),
        ),
    ]
    seeds = sorted({seed for _, _, seed in cells})
    columns = list(dict.fromkeys(column for _, column, _ in cells))
    for claim, paper, rate in (
        ("The normalized loss is better where both survive", "+0.4", ""),
        ("... with the larger learning rate", "", ", larger rate"),
    ):
        values = []
        for seed in seeds:
            gains = [
                number(cells[f"normalized{rate}", column, seed]["AP"])
                - number(cells[f"plain sum{rate}", column, seed]["AP"])
                for column in columns
            ]
            gains = [gain for gain in gains if not math.isnan(gain)]
            values.append(statistics.fmean(gains) if gains else math.nan)
        rows.append((claim, paper, *judged(values)))
    return rows


def cost(cells):
    """Return a line on the cost of self-training."""
    ratios = {"seconds": [], "images": []}
    for (row, column, seed), cell in cells.items():
        whole = cells.get((SELF, column, seed))
        if row != "pre-trained" or not (whole["seconds"] and cell["seconds"]):
            continue
        ratios["seconds"].append(float(whole["seconds"]) / float(cell["seconds"]))
        images = float(whole["teacher_images"]) + float(whole["student_images"])
        ratios["images"].append(images / float(cell["teacher_images"]))
    seconds, images = (
        f"{statistics.fmean(values):.1f} ± {statistics.pstdev(values):.1f}"
        for values in ratios.values()
    )
    return (
        f"Self-training (teacher, labels, student) costs {seconds} times the seconds "
        f"and {images} times the images of training that fine-tuning a pre-trained "
        f"model does ({len(ratios['seconds'])} pairs)."
    )


if __name__ == "__main__":
    main()
