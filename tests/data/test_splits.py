"""Fixed subsets of a data set: nested, reproducible and checked."""

import json

import pytest

from official_selftrain.data import splits
from official_selftrain.data.sources import digits


def test_subsets_are_nested_and_reproducible():
    """COCO's 118,287 training images; the hashes of this split must never change."""
    ids = range(118287)
    parts = {share: splits.chosen(ids, share) for share in (0.2, 0.5, 1.0)}
    assert [len(part) for part in parts.values()] == [23657, 59144, 118287]
    assert set(parts[0.2]) < set(parts[0.5]) < set(parts[1.0])
    assert [splits.sha256(part)[:16] for part in parts.values()] == HASHES
    assert splits.chosen(reversed(ids), 0.2) == parts[0.2]  # whatever the order
    other = splits.chosen(ids, 0.2, seed=1)
    # Two draws of a fifth share a fifth.
    assert len(set(other) & set(parts[0.2])) == pytest.approx(0.04 * 118287, rel=0.05)


HASHES = ["4fff5389fc37be48", "0dfd2876fb4ac850", "de15bd138f489971"]


def scenes():
    return digits.scenes("labeled", 10, 0, (32, 32), num_classes=2)


def test_subset_of_a_source(tmp_path):
    path = tmp_path / "splits" / "part.json"
    part = splits.fraction(scenes, 0.3, split_file=str(path))
    ids = [int(example["id"]) for example in part.dataset]
    everything = [int(example["id"]) for example in scenes().dataset]
    assert ids == splits.chosen(everything, 0.3) and part.num_images == 3
    assert part.class_names == scenes().class_names and part.has_labels
    content = json.loads(path.read_text())
    assert content["ids"] == ids and content["images"] == 10
    again = splits.fraction(scenes, 0.3, split_file=str(path))
    assert [int(example["id"]) for example in again.dataset] == ids
    with pytest.raises(ValueError, match="a split of .*'share': 0.5.*of .*0.3"):
        splits.fraction(scenes, 0.5, split_file=str(path))
    content["ids"][0] += 100
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="Expected ids with the hash .* with 3 diff"):
        splits.fraction(scenes, 0.3, split_file=str(path))


@pytest.mark.parametrize("share", [0.0, 1.5, "half"])
def test_invalid_shares(share):
    with pytest.raises(ValueError, match=f"share={share!r}"):
        splits.fraction(scenes, share)
