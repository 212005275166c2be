"""What monitors share: a memory that goes into checkpoints, and a few rows to look at the network with."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from tinygrad_cr.tensor import Tensor
from tinygrad_cr.train.callbacks import Callback, Setup
from tinygrad_cr.train.evaluate import input_of
from tinygrad_cr.train.history import History

ROWS = 256
"""So many rows show what a network does, and cost little beside an epoch."""


class Monitor(Callback):
    """A callback whose state is a handful of attributes, all of which JSON can hold."""

    memory: tuple[str, ...] = ()
    """The names of these attributes."""

    def state_dict(self) -> dict[str, Any]:
        """What has been seen and told so far."""
        return {name: copy.deepcopy(getattr(self, name)) for name in self.memory}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on watching."""
        for name in self.memory:
            setattr(self, name, copy.deepcopy(state[name]))


def ran_to_its_end(history: History) -> bool:
    """Whether the run is over and was not lost: one that was interrupted may go on, and then has its verdict later."""
    return not any(event.level == "fail" or (event.stop and event.kind == "interrupted") for event in history.events)


def rows_to_look_with(setup: Setup) -> Tensor:
    """At most `ROWS` rows of the sample as the network takes them: [n, features]. Evenly spaced, for sorted data."""
    x = setup.standardizer.transform(setup.sample.spread(ROWS).x, dtype=str(setup.model.dtype))
    return input_of(setup.model, x)
