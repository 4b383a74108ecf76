"""The training log: the time left for the whole experiment."""

import types

import pytest

from official_selftrain.files.run_folder import StageFolder
from official_selftrain.training import history
from official_selftrain.training.actions import Step


@pytest.mark.parametrize(("later", "told"), [(800.0, True), (0.0, False)])
def test_the_time_left_by_hand(tmp_path, monkeypatch, capsys, later, told):
    """Slow until step 5, then 2 s each, from step 26 on 4 s each.

    At step 20, 80 steps of 8 images remain, and 800 images that are as many as 100
    steps: 360 s. At step 40, 60 and 100 steps of 100 s / 35: 457 s. The step that the
    training continues from doesn't count.
    """
    clock = [0.0]
    monkeypatch.setattr(
        history, "time", types.SimpleNamespace(monotonic=lambda: clock[0])
    )
    optimizer = types.SimpleNamespace(learning_rate=0.1)
    done = 7
    log = history.History(
        StageFolder(tmp_path / "teacher"), 107, done, 8, optimizer, later=later
    )
    found = {}
    with log:
        for number in range(1, 41):
            clock[0] += 60.0 if number <= 5 else 2.0 if number <= 25 else 4.0
            terms = {"loss": 1.0, "gradient_norm": 1.0}
            log.add(Step(done + number, 107, 1000, terms, {}))
            found[number] = log._shown.get("experiment")
    minutes = ["06:00", "07:37"] if later else ["02:40", "02:51"]
    assert found[19] is None
    assert [found[n] for n in (20, 39, 40)] == [f"{minutes[n]} left" for n in (0, 0, 1)]
    line = "teacher: about 06:00 for the whole experiment\n"
    assert (line in capsys.readouterr().err) == told
