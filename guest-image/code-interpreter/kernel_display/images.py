"""Pillow images in a machine without a screen: shown as results of the cell."""

import functools
import os
import sys
from types import ModuleType
from typing import Any

from IPython.display import display


def patch_image(module: ModuleType) -> None:
    """Make `Image.save` to a file show the image too, and `Image.show` nothing else."""
    image_class: Any = module.Image
    save_without_display = image_class.save

    @functools.wraps(save_without_display)
    def save(self: Any, fp: Any, *arguments: Any, **parameters: Any) -> None:
        save_without_display(self, fp, *arguments, **parameters)
        # matplotlib saves its figures through Pillow, and shows them by itself.
        caller = str(sys._getframe(1).f_globals.get("__name__", ""))
        if isinstance(fp, str | os.PathLike) and not caller.startswith("matplotlib."):
            display(self)

    image_class.save = save


def patch_viewers(module: ModuleType) -> None:
    """Put a viewer that shows the image in the answer in place of those that start a program."""
    viewer_class: Any = module.Viewer

    class ResultViewer(viewer_class):  # type: ignore[misc]
        def show(self, image: Any, **_: Any) -> int:
            display(image)
            return 1

    module._viewers[:] = [ResultViewer()]
