"""An ensemble is one file, which comes back to the bit, or is refused with the reason."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from tinygrad_cr.data import Standardizer
from tinygrad_cr.ensemble import Ensemble, Member
from tinygrad_cr.errors import OptionError, RunError
from tinygrad_cr.nn import MLP, Affine, Module, ReLU, Sequential

X = np.random.default_rng(0).standard_normal((50, 4))
NAMES = ("cat", "dog", "bird")


def networks(count: int = 3) -> list[MLP]:
    return [MLP([4, 8, 3], dropout=0.5, generator=i, dtype=("float32", "float64")[i % 2]) for i in range(count)]


@pytest.fixture
def ensemble() -> Ensemble:
    return Ensemble(networks(), standardizer=Standardizer("per-feature").fit(3 * X), class_names=NAMES)


@pytest.fixture
def path(ensemble: Ensemble, tmp_path: Path) -> Path:
    ensemble.save(tmp_path / "ensemble.safetensors")
    return tmp_path / "ensemble.safetensors"


def contents(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118 - it is no dict


def test_a_file_gives_the_ensemble_back(ensemble, path):
    again = Ensemble.load(path)
    assert (again.predict_proba(X) == ensemble.predict_proba(X)).all()
    assert again.class_names == NAMES
    assert [m.model.config() for m in again] == [m.model.config() for m in ensemble]
    assert not any(module.training for member in again for module in member.model.modules())


def test_standardizers_are_written_once_for_those_that_share_them(tmp_path):
    first, same, other = (Standardizer("per-feature").fit(scale * X) for scale in (1, 1, 2))
    members = [Member(m, s) for m, s in zip(networks(4), (first, same, other, None), strict=True)]
    Ensemble(members).save(tmp_path / "e.safetensors")
    arrays, _ = contents(tmp_path / "e.safetensors")
    assert sum(name.startswith("standardizer.") for name in arrays) == 4  # mean and scale of two
    again = Ensemble.load(tmp_path / "e.safetensors")
    scales = [None if m.standardizer is None else m.standardizer.scale_.tolist() for m in again]
    assert scales == [first.scale_.tolist(), first.scale_.tolist(), other.scale_.tolist(), None]


def test_networks_of_ones_own_come_back_through_a_function_that_makes_them(tmp_path):
    def make() -> Module:
        return Sequential(Affine(4, 5), ReLU(), Affine(5, 3))

    ensemble, path = Ensemble([make(), make()]), tmp_path / "own.safetensors"
    ensemble.save(path)
    assert (Ensemble.load(path, make).predict_proba(X) == ensemble.predict_proba(X)).all()
    with pytest.raises(OptionError, match=r"member 0 in .* is no MLP.*pass make="):
        Ensemble.load(path)
    with pytest.raises(RunError, match="does not hold a whole ensemble: state dict does not fit"):
        Ensemble.load(path, lambda: Affine(4, 3))


def test_a_file_is_replaced_whole_and_leaves_nothing_beside_it(ensemble, path):
    ensemble[:1].save(path)
    assert len(Ensemble.load(path)) == 1
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(ensemble, path, monkeypatch):
    before = path.read_bytes()

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunError, match=r"cannot write .*: No space left on device"):
        ensemble[:1].save(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_folders_on_the_way_are_made(ensemble, tmp_path):
    ensemble.save(str(tmp_path / "a" / "b" / "e.safetensors"))
    assert len(Ensemble.load(str(tmp_path / "a" / "b" / "e.safetensors"))) == 3


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RunError, match=r"there is no file .*none\.safetensors"):
        Ensemble.load(tmp_path / "none.safetensors")


def test_a_file_cut_anywhere_is_refused(path):
    whole = path.read_bytes()
    for length in [0, 1, 8, 100, *random.Random(0).sample(range(len(whole)), 20), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(RunError, match="whole safetensors file"):
            Ensemble.load(path)


def test_a_flipped_bit_anywhere_is_refused(path):
    whole = path.read_bytes()
    for place in random.Random(0).sample(range(len(whole)), 60):
        changed = bytearray(whole)
        changed[place] ^= 1 << (place % 8)
        path.write_bytes(changed)
        with pytest.raises(RunError):
            Ensemble.load(path)


def test_a_file_of_other_tensors_is_told_apart_from_a_damaged_one(tmp_path):
    save_file({"layers.0.weight": np.zeros(3, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(RunError, match="holds no ensemble, but other tensors; load_run reads"):
        Ensemble.load(tmp_path / "model.safetensors")


def rewrite(path: Path, **changes: Any) -> None:
    """The file with another description, and the right sum over it."""
    from tinygrad_cr.ensemble import file

    arrays, metadata = contents(path)
    text = json.dumps(json.loads(metadata["ensemble"]) | changes)
    save_file(arrays, path, {"ensemble": text, "sum": file._sum(arrays, text)})


def test_another_version_is_refused_by_its_number(path):
    rewrite(path, format=2)
    with pytest.raises(RunError, match="ensemble format 2, this version reads 1"):
        Ensemble.load(path)


@pytest.mark.parametrize("changes", [{"members": None}, {"members": [{}]}, {"standardizers": []}, {"class_names": 3}])
def test_a_description_that_does_not_fit_the_arrays_is_refused(path, changes):
    rewrite(path, **changes)
    with pytest.raises(RunError, match="does not hold a whole ensemble"):
        Ensemble.load(path)
