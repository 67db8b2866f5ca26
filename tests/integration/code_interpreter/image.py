"""The code interpreter as the image `code-interpreter-v1` has it: its files, its Python, Node.js, R and Java.

No guest is booted: the layers are unpacked and the image's command runs in them, as the image's user.
"""

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.integration.code_interpreter.interpreter import Interpreter
from tests.support.ports import free_port

_LAYERS = Path(__file__).parents[3] / "build" / "layers"
_RUN = """
mkdir -p "$1/proc" "$1/dev" "$1/tmp" &&
mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" && mount -t tmpfs tmpfs "$1/tmp" && chmod 1777 "$1/tmp" &&
cp -a "$1/home/user" "$1/tmp/home" && mount --bind "$1/tmp/home" "$1/home/user" &&
root=$1 && shift &&
exec chroot --userspec=user:user "$root" "$@"
"""
_COMMAND = ("/opt/code-interpreter/start.sh",)


def unpack_image(root: Path) -> None:
    """Unpack the layers as `guest-image/build.py images` left them."""
    root.mkdir()
    for layer in ("base.tar", "code-interpreter.tar"):
        subprocess.run(["tar", "--extract", f"--file={_LAYERS / layer}", f"--directory={root}"], check=True)


@contextmanager
def running_image(root: Path, log: Path, envs_url: str, command: Sequence[str] = _COMMAND) -> Iterator[Interpreter]:
    """Run a command of the image, its own by default, in namespaces that end with it and with a home of its own."""
    port, jupyter_port = free_port(), free_port()
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/home/user",
        "LANG": "C.UTF-8",
        "CODE_INTERPRETER_HOST": "127.0.0.1",
        "CODE_INTERPRETER_PORT": str(port),
        "CODE_INTERPRETER_JUPYTER_PORT": str(jupyter_port),
        "CODE_INTERPRETER_ENVS_URL": envs_url,
    }
    argv = ["unshare", "--mount", "--pid", "--fork", "sh", "-c", _RUN, "run", str(root), *command]
    with log.open("wb") as output:
        process = subprocess.Popen(argv, env={**os.environ, **environment}, stdout=output, stderr=output)
        try:
            interpreter = Interpreter(
                url=f"http://127.0.0.1:{port}",
                jupyter_url=f"http://127.0.0.2:{jupyter_port}",
                home=Path("/home/user"),
                supervisor=process.pid,
                environment=environment,
            )
            interpreter.wait_until_healthy()
            yield interpreter
        finally:
            # The namespace's first process, with which all others end. `--kill-child` does not reach it: a process that
            # becomes another user no longer gets its parent's death signal.
            for first in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
                os.kill(int(first), signal.SIGKILL)
            process.kill()
            process.wait(20)
