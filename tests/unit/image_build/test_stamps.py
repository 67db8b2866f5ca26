from __future__ import annotations

from pathlib import Path

import pytest

from image_build import cpio, stamps


class Recipe:
    """Counts how often it is carried out."""

    def __init__(self, directory: Path) -> None:
        self.output = directory / "out" / "artefact"
        self.stamp = directory / "stamps" / "artefact.json"
        self.built = 0
        self.fails = False

    def make(self, **inputs: object) -> int:
        stamps.make(
            "artefact",
            stamp=self.stamp,
            inputs=inputs,
            outputs=(self.output,),
            build=self._build,
            builders=(cpio,),
        )
        return self.built

    def _build(self) -> None:
        self.built += 1
        self.output.write_text("made")
        if self.fails:
            raise RuntimeError


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return Recipe(tmp_path)


def test_an_artefact_is_made_once_for_the_same_inputs(recipe: Recipe) -> None:
    assert recipe.make(lock="1") == 1
    assert recipe.make(lock="1") == 1
    assert recipe.make(lock="2") == 2


def test_a_missing_artefact_is_made_again(recipe: Recipe) -> None:
    recipe.make(lock="1")
    recipe.output.unlink()
    assert recipe.make(lock="1") == 2


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"digest": 3}', "not json"])
def test_a_stamp_that_says_nothing_means_make(content: str, recipe: Recipe) -> None:
    recipe.make(lock="1")
    recipe.stamp.write_text(content)
    assert recipe.make(lock="1") == 2


def test_a_failed_build_leaves_no_stamp_of_an_earlier_one(recipe: Recipe) -> None:
    recipe.make(lock="1")
    recipe.fails = True
    with pytest.raises(RuntimeError):
        recipe.make(lock="2")
    recipe.fails = False
    assert recipe.make(lock="1") == 3
