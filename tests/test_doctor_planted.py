"""Every planted bug is seen by the check that is meant to see it, and no other check says anything."""

from __future__ import annotations

import pytest

from planted import BUGS, as_table, healthy, stacked, with_model
from tinygrad_cr.doctor import preflight
from tinygrad_cr.nn import Dropout


def found(plant, seed: int) -> dict[str, str]:
    """The checks that warn or fail."""
    setting = plant(seed)
    report = preflight(setting.model, setting.train, setting.validation, generator=seed, **setting.options)
    return {check.name: check.status.value for check in report.checks if check.status in ("WARN", "FAIL")}


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_caught_by_the_right_check_and_by_no_other(bug):
    assert found(BUGS[bug].plant, 0) == BUGS[bug].caught


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 10))
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_caught_with_every_seed(bug, seed):
    assert found(BUGS[bug].plant, seed) == BUGS[bug].caught


SOUND = {
    "the digits": healthy,
    "the digits as a table": as_table(None),
    "layers one by one": with_model(lambda seed: stacked(seed, Dropout(0.3, generator=seed))),
}
"""What the bugs were planted in."""


@pytest.mark.parametrize("kind", SOUND)
def test_the_same_setting_without_the_bug_passes(kind):
    assert found(SOUND[kind], 0) == {}
