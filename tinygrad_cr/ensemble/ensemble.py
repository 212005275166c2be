"""`Ensemble`: several networks that answer as one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, overload

import numpy as np

from tinygrad_cr.data import Dataset, Standardizer
from tinygrad_cr.ensemble import disagreement, file
from tinygrad_cr.ensemble.averaging import Array, averaged, check_average, log_softmax
from tinygrad_cr.ensemble.calibration import Calibration, calibration
from tinygrad_cr.ensemble.disagreement import Disagreement
from tinygrad_cr.ensemble.members import Member, gathered
from tinygrad_cr.errors import DataError, ShapeError
from tinygrad_cr.nn import Module
from tinygrad_cr.train import History, Run
from tinygrad_cr.train.evaluate import ROWS, evaluation


class Ensemble(Sequence[Member]):
    """Networks whose answers are averaged. ``len``, ``ensemble[i]`` (a `Member`) and slices (an `Ensemble`) work.

    Args:
        members: trained classifiers: Modules, `Member`s (a Module with its standardizer) or `train.Run`s; or a
            population.
        standardizer: of the members that bring none of their own.
        class_names: of the members that do not say; [classes].
        history: how they were trained, where that is known; it is not saved.

    Raises:
        OptionError: no members, or something that is none.
        ShapeError: they take different features or have different numbers of classes.
        DataError: their classes have different names, or a member holds inf or NaN.

    >>> from tinygrad_cr.nn import MLP
    >>> ensemble = Ensemble([MLP([4, 8, 3], generator=i) for i in range(5)], class_names=["a", "b", "c"])
    >>> ensemble
    Ensemble(5 members, 3 classes)
    >>> ensemble.predict_proba(np.zeros((2, 4))).round(3).tolist()
    [[0.333, 0.333, 0.333], [0.333, 0.333, 0.333]]
    """

    def __init__(
        self,
        members: Module | Iterable[Module | Member | Run],
        *,
        standardizer: Standardizer | None = None,
        class_names: Sequence[str] = (),
        history: History | None = None,
    ) -> None:
        self.members, self.class_names, self._classes = gathered(members, standardizer, class_names)
        self.history = History() if history is None else history

    def predict_proba(self, x: Any, average: str = "probabilities") -> Array:
        """Class probabilities, [n, classes] float64; x: [n, features], or images that flatten to that.

        Args:
            average: "probabilities" for their mean, "log" for their normalised geometric mean, see `averaged`.

        Raises:
            ShapeError: another number of features than the members take.
            DataError: x is empty, or holds inf or NaN.
            OptionError: another average.
        """
        return np.exp(self._averaged(x, average))

    def predict(self, x: Any, average: str = "probabilities") -> np.ndarray[Any, Any]:
        """The most probable class of each row, [n] int64; `class_names` says what they are called."""
        return np.asarray(self._averaged(x, average).argmax(axis=1))

    def evaluate(self, data: Dataset, average: str = "probabilities") -> tuple[float, float]:
        """Mean cross-entropy and accuracy on labelled data, as `train.evaluate` gives them for one network.

        Raises:
            DataError: data without labels, or labels that the members have no output for.
        """
        logs = self._averaged(data.x, average)
        y = self._labels(data, logs.shape[1])
        return float(-logs[np.arange(len(y)), y].mean()), float((logs.argmax(axis=1) == y).mean())

    def calibration(self, data: Dataset, bins: int = 15, average: str = "probabilities") -> Calibration:
        """Whether it is right as often as it says: the expected calibration error and its bins, see `calibration`."""
        probabilities = self.predict_proba(data.x, average)
        return calibration(probabilities, self._labels(data, probabilities.shape[1]), bins)

    def disagreement(self, x: Any) -> Disagreement:
        """How far the members differ on each row."""
        parts = [disagreement.of(logits) for logits in self._logits(x)]
        names = vars(parts[0])
        return Disagreement(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})

    def member_proba(self, x: Any) -> Array:
        """What each member says alone: [members, n, classes] float64."""
        return np.concatenate([np.exp(log_softmax(logits)) for logits in self._logits(x)], axis=1)

    def save(self, path: Path | str) -> None:
        """Write all members, their standardizers and the class names to one safetensors file, whole or not at all.

        Raises:
            RunError: it cannot be written.
        """
        file.write(Path(path), self.members, self.class_names)

    @classmethod
    def load(cls, path: Path | str, make: Callable[[], Module] | None = None) -> Ensemble:
        """The ensemble in a file that `save` wrote; nothing in the file is executed.

        Args:
            make: makes a network like the members were; needed where they are no `nn.MLP`.

        Raises:
            RunError: no file, another kind of file, a damaged one, or one of another version.
            OptionError: a member is no MLP, and `make` was not given.

        >>> from tinygrad_cr.nn import MLP
        >>> Ensemble([MLP([4, 3], generator=0)]).save("ensemble.safetensors")
        >>> Ensemble.load("ensemble.safetensors")
        Ensemble(1 member, 3 classes)
        """
        members, class_names = file.read(Path(path), make)
        return cls(members, class_names=class_names)

    @overload
    def __getitem__(self, index: int) -> Member: ...
    @overload
    def __getitem__(self, index: slice) -> Ensemble: ...
    def __getitem__(self, index: int | slice) -> Member | Ensemble:
        if isinstance(index, slice):
            return Ensemble(self.members[index], class_names=self.class_names, history=self.history)
        return self.members[index]

    def __len__(self) -> int:
        return len(self.members)

    def __repr__(self) -> str:
        classes = "" if self._classes is None else f", {self._classes} classes"
        return f"Ensemble({len(self)} member{'s' if len(self) > 1 else ''}{classes})"

    def _labels(self, data: Dataset, outputs: int) -> np.ndarray[Any, Any]:
        if data.y is None:
            raise DataError("evaluation wants labelled data; use predict_proba for data without labels")
        if data.y.max() >= outputs:
            raise DataError(f"the data has a label {data.y.max()}, the members have outputs for 0..{outputs - 1}")
        return data.y

    def _averaged(self, x: Any, average: str) -> Array:
        check_average(average)
        return np.concatenate([averaged(logits, average) for logits in self._logits(x)])

    def _logits(self, x: Any) -> Iterator[np.ndarray[Any, Any]]:
        """The logits of all members, [members, rows, classes], a few rows at a time."""
        rows = Dataset(x).x
        with ExitStack() as stack:
            for member in self.members:
                stack.enter_context(evaluation(member.model))
            for start in range(0, len(rows), ROWS):
                yield self._chunk(rows[start : start + ROWS])

    def _chunk(self, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        ready: dict[tuple[int, str], np.ndarray[Any, Any]] = {}
        answers = []
        for member in self.members:
            dtype = str(member.model.dtype)
            key = (id(member.standardizer), dtype)
            if key not in ready:
                given = member.standardizer
                ready[key] = rows.astype(dtype) if given is None else given.transform(rows, dtype=dtype)
            answers.append(member.logits(ready[key]))
        shapes = {answer.shape for answer in answers}
        if len(shapes) > 1:
            raise ShapeError(f"members give logits of different shapes: {', '.join(map(str, sorted(shapes)))}")
        return np.stack(answers)
