"""Which protocols of the quality benchmark share a training."""

import quality


def test_protocols_that_train_alike_share_one_training():
    found = quality.trainings(["known", "new", "time", "offline", "new"])
    assert list(found.values()) == [["known"], ["new", "offline"], ["time"]]
    assert found["--new-user-share", str(quality.NEW_USER_SHARE)] == ["new", "offline"]
    assert found["--split", "time"] == ["time"]
