import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from kernel_display.on_import import PatchingFinder, patch_on_import


@pytest.fixture
def module_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name = "cube_test_module"
    (tmp_path / f"{name}.py").write_text("value = 1\nown_loader = __spec__.loader\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    yield name
    sys.modules.pop(name, None)


def patch(module: ModuleType) -> None:
    module.value += 1  # type: ignore[attr-defined]


def test_a_module_is_patched_when_it_is_imported(module_name: str) -> None:
    patch_on_import({module_name: patch})
    assert module_name not in sys.modules
    module = import_module(module_name)
    assert module.value == 2


def test_a_module_that_is_loaded_is_patched_at_once(module_name: str) -> None:
    module = import_module(module_name)
    patch_on_import({module_name: patch})
    assert module.value == 2


def test_the_module_sees_its_own_loader(module_name: str) -> None:
    patch_on_import({module_name: patch})
    module = import_module(module_name)
    assert type(module.own_loader).__name__ == "SourceFileLoader"
    assert module.__spec__ is not None
    assert module.__spec__.loader is module.own_loader


def test_other_modules_are_left_to_others() -> None:
    finder = PatchingFinder({"cube_test_module": patch})
    assert finder.find_spec("json", None) is None
    assert finder.find_spec("cube_test_module", None) is None  # there is none
