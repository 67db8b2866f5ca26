"""Runs a function on a module as soon as the user's code has imported it."""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

Patch = Callable[[ModuleType], None]


class _PatchingLoader(Loader):
    def __init__(self, loader: Loader, patch: Patch) -> None:
        self._loader = loader
        self._patch = patch

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # The module must not see this loader, which has none of the other abilities of its own.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._patch(module)


class PatchingFinder(MetaPathFinder):
    """Finds nothing itself: passes on what the finders behind it find, and patches it once loaded."""

    def __init__(self, patches: Mapping[str, Patch]) -> None:
        self._patches = dict(patches)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        patch = self._patches.pop(fullname, None)
        if patch is None:
            return None
        # Popped, so this finder has no answer when it is asked again from here.
        spec = find_spec(fullname)
        if spec is None or spec.loader is None:
            self._patches[fullname] = patch
            return None
        spec.loader = _PatchingLoader(spec.loader, patch)
        return spec


def patch_on_import(patches: Mapping[str, Patch]) -> None:
    """Apply each patch to the module of its name: now if it is loaded, else when it is."""
    waiting: dict[str, Patch] = {}
    for name, patch in patches.items():
        if name in sys.modules:
            patch(sys.modules[name])
        else:
            waiting[name] = patch
    sys.meta_path.insert(0, PatchingFinder(waiting))
