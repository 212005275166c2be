"""`Disagreement`: how far the members of an ensemble differ, row by row. Where they agree, averaging gains nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_cr.ensemble.averaging import Array, log_softmax


@dataclass(frozen=True)
class Disagreement:
    """How far members differ on each row; every attribute is [n] float64, and 0 where they do not.

    Attributes:
        pairwise: the part of all pairs of members that predict different classes (Skalak 1996; Kuncheva and Whitaker
            2003, "disagreement measure").
        entropy: of the mean probabilities, in nats: how unsure the ensemble is, for whatever reason.
        mutual_information: between the class and the member, in nats: the entropy less the mean entropy of the members.
            It is the part of the doubt that comes from the members' differing, which more data would take away; the
            rest lies in the row itself (Houlsby et al. 2011, Depeweg et al. 2018).
        variance: of the members' probabilities, summed over classes. The Brier score of the mean is the members' mean
            Brier score less this, exactly (Krogh and Vedelsby 1995, "ambiguity").

    >>> same, apart = np.log([[[0.9, 0.1]], [[0.9, 0.1]]]), np.log([[[0.9, 0.1]], [[0.1, 0.9]]])
    >>> of(same).mean()["pairwise"], of(apart).mean()["pairwise"]
    (0.0, 1.0)
    """

    pairwise: Array
    entropy: Array
    mutual_information: Array
    variance: Array

    def mean(self) -> dict[str, float]:
        """The mean of each over all rows."""
        return {name: float(values.mean()) for name, values in vars(self).items()}


def of(logits: NDArray[Any]) -> Disagreement:
    """The disagreement of members with these logits, [members, n, classes]; a single member agrees with itself."""
    members, _, classes = logits.shape
    logs = log_softmax(logits)
    probabilities = np.exp(logs)
    mean = probabilities.mean(axis=0)
    votes = (logits.argmax(axis=2)[..., None] == np.arange(classes)).sum(axis=0)
    agreeing = (votes * (votes - 1)).sum(axis=1)
    entropy = _entropy(mean, np.log(np.maximum(mean, np.finfo(np.float64).tiny)))
    # Of what is 0 in theory, rounding may leave a little less than 0.
    mutual = np.maximum(entropy - _entropy(probabilities, logs).mean(axis=0), 0.0)
    return Disagreement(
        pairwise=1 - agreeing / max(1, members * (members - 1)) if members > 1 else np.zeros(len(mean)),
        entropy=entropy,
        mutual_information=mutual if members > 1 else np.zeros(len(mean)),
        variance=probabilities.var(axis=0).sum(axis=1),
    )


def _entropy(probabilities: Array, logs: Array) -> Array:
    result: Array = -(probabilities * logs).sum(axis=-1)
    return result
