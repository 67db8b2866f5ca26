"""The languages that a kernel can be of: what it says of itself, and which process runs its cells."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial

from process_kernel.bash import BashProcess
from process_kernel.node import NodeProcess
from process_kernel.process import CellProcess, Forward


@dataclass(frozen=True, slots=True)
class Language:
    start: Callable[[Forward], Awaitable[CellProcess]]
    program: str  # its name in messages to the user
    info: Mapping[str, str]  # Jupyter's `language_info`


LANGUAGES: Mapping[str, Language] = {
    "javascript": Language(
        start=partial(NodeProcess.start, "javascript"),
        program="Node.js",
        info={
            "name": "javascript",
            "version": "ES2022",
            "mimetype": "application/javascript",
            "file_extension": ".js",
        },
    ),
    "typescript": Language(
        start=partial(NodeProcess.start, "typescript"),
        program="Node.js",
        info={"name": "typescript", "version": "4.9", "mimetype": "text/typescript", "file_extension": ".ts"},
    ),
    "bash": Language(
        start=BashProcess.start,
        program="bash",
        info={"name": "bash", "version": "5", "mimetype": "text/x-sh", "file_extension": ".sh"},
    ),
}
