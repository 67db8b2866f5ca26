"""The languages that a kernel can be of: what it says of itself, and which process runs its cells."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from process_kernel.bash import BashProcess
from process_kernel.driver import DriverProcess
from process_kernel.process import CellProcess, Forward


@dataclass(frozen=True, slots=True)
class Language:
    start: Callable[[Forward], Awaitable[CellProcess]]
    program: str  # its name in messages to the user
    info: Mapping[str, str]  # Jupyter's `language_info`


_HERE = Path(__file__).parent
_NODE = ("node", "--experimental-import-meta-resolve", str(_HERE / "node" / "driver.mjs"))
# Java cannot be interrupted where SIGINT is ignored as it starts, as it is in the background of a script. The driver is
# compiled then too, which loads the compiler that the cells need anyway.
_JAVA_OPTIONS = ("-XX:+UseSerialGC", "-XX:-UsePerfData", "--source=17")
_JAVA = ("env", "--default-signal=INT", "java", *_JAVA_OPTIONS, str(_HERE / "java" / "Driver.java"))

LANGUAGES: Mapping[str, Language] = {
    "javascript": Language(
        start=partial(DriverProcess.start, (*_NODE, "javascript")),
        program="Node.js",
        info={
            "name": "javascript",
            "version": "ES2022",
            "mimetype": "application/javascript",
            "file_extension": ".js",
        },
    ),
    "typescript": Language(
        start=partial(DriverProcess.start, (*_NODE, "typescript")),
        program="Node.js",
        info={"name": "typescript", "version": "4.9", "mimetype": "text/typescript", "file_extension": ".ts"},
    ),
    "java": Language(
        start=partial(DriverProcess.start, _JAVA),
        program="Java",
        info={"name": "java", "version": "17", "mimetype": "text/x-java-source", "file_extension": ".java"},
    ),
    "bash": Language(
        start=BashProcess.start,
        program="bash",
        info={"name": "bash", "version": "5", "mimetype": "text/x-sh", "file_extension": ".sh"},
    ),
}
