"""Summarize a finished folder of labels in a few printed lines."""

from official_selftrain.data import ledger
from official_selftrain.data.sources import pools
from official_selftrain.files import atomic
from official_selftrain.files.run_folder import LabelFolder
from official_selftrain.labeling import label_quality, label_report, label_store


def describe(output_dir, score_threshold):
    """Print skipped images and the number of images with a label.

    Args:
        output_dir: str, a finished folder of labels.
        score_threshold: float in 0…1, minimum score of a label.

    Returns:
        dict, as returned by `label_quality.measure`.
    """
    manifest = label_store.read_manifest(output_dir)
    for line in manifest["skipped"][:20]:
        print(f"skipped {line}")
    stored = label_store.read(output_dir)
    quality = label_quality.measure(stored, score_threshold)
    print(
        f"labels: {manifest['labeled']} of {manifest['images']} images, "
        f"{len(manifest['skipped'])} skipped; {quality['empty_images']} without a "
        f"label of at least {score_threshold}; in {output_dir}"
    )
    for unit, content in manifest.get("ledger", {}).items():
        print(f"  {ledger.line(unit, content)}")
    return quality


def report(output_dir, pool):
    """Write the report of `label_report`; print its path and suggested threshold.

    Args:
        output_dir: str, a finished folder of labels.
        pool: the arguments of `pools.open_pool`; its labels, if any, are the ground
            truth.
    """
    truth = pools.open_pool(*pool)
    print(f"report: {label_report.write(output_dir, truth)}")
    sweep = atomic.read_json(LabelFolder(output_dir).report_json)["sweep"]
    if sweep and sweep["classes"]["all"]["suggested"] is not None:
        best = sweep["classes"]["all"]
        score = best["suggested"]
        setting = f"--gin_param='SCORE_THRESHOLD = {score}'"
        if score < 0.2:  # the ignore_threshold of the shipped gin files
            lower = round(score / 2, 3)
            setting += f" --gin_param='experiment.Teaching.ignore_threshold = {lower}'"
        print(f"threshold of the best F1, on {best['true']} labels: {setting}")
