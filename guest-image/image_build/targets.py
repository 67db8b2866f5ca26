"""What each target is made from, and how. Each is made again only when one of its inputs changed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from image_build import (
    agent,
    apt,
    base_image,
    code_interpreter_image,
    commands,
    cpio,
    java_trust,
    kernel,
    kernel_modules,
    layer_tar,
    manifest,
    oci,
    pins,
    programs,
    rootfs,
    squashfs,
    stamps,
    wheels,
)
from image_build.hashing import sha256_file, sha256_tree
from image_build.places import Places
from image_build.progress import say

_TAG = "latest"


@dataclass(frozen=True, slots=True)
class Targets:
    places: Places
    wanted: pins.Wanted
    packages: apt.PackageCache = field(repr=False)

    @classmethod
    def of(cls, places: Places) -> Targets:
        return cls(
            places=places,
            wanted=pins.read_versions((places.source / "versions.toml").read_text()),
            packages=apt.PackageCache(places.cache),
        )

    def kernel(self) -> None:
        lock = self.places.lock("kernel")
        guest = self.places.guest

        def build() -> None:
            with tempfile.TemporaryDirectory() as scratch:
                unpacked, boot = Path(scratch) / "kernel", Path(scratch) / "boot"
                apt.unpack(self.packages.fetch(pins.read_debs(lock)), unpacked)
                programs.compile_static(self.places.source / "init" / "boot.c", boot)
                (guest / "vmlinuz").write_bytes(kernel.vmlinuz(unpacked))
                (guest / "initramfs.img").write_bytes(kernel.initramfs(unpacked, boot.read_bytes()))

        stamps.make(
            "kernel",
            stamp=self.places.stamps / "kernel.json",
            inputs={"lock": sha256_file(lock), **self._program_inputs()},
            outputs=(guest / "vmlinuz", guest / "initramfs.img"),
            build=build,
            builders=(commands, apt, cpio, kernel, kernel_modules, programs),
        )

    def agent(self) -> None:
        debs, libraries = self.places.lock("agent"), self.places.lock("agent-wheels")
        package = self.places.source / "agent" / "guest_agent"
        disk = self.places.guest / "agent.squashfs"

        def build() -> None:
            with tempfile.TemporaryDirectory() as scratch:
                unpacked, root = Path(scratch) / "packages", Path(scratch) / "disk"
                apt.unpack(self.packages.fetch(pins.read_debs(debs)), unpacked)
                agent.lay_out(unpacked, root)
                wheels.unpack(wheels.fetch(libraries, self.places.cache), agent.site_packages(root))
                agent.add_package(package, root)
                (root / "sbin").mkdir()
                programs.compile_static(self.places.source / "init" / "init.c", root / "sbin/init")
                say("agent: compiling bytecode")
                agent.compile_bytecode(root)
                agent.check_libraries(root)
                agent.check_imports(root, ("guest_agent.__main__", "uvicorn", "httptools"))
                squashfs.pack(root, disk, compress=False)

        stamps.make(
            "agent",
            stamp=self.places.stamps / "agent.json",
            inputs={
                "debs": sha256_file(debs),
                "wheels": sha256_file(libraries),
                "agent": sha256_tree(package),
                **self._program_inputs(),
            },
            outputs=(disk,),
            build=build,
            builders=(commands, apt, agent, programs, squashfs, wheels),
        )

    def manifest(self) -> None:
        """Describe the guest once all of it is there. Cheap, so always made."""
        guest = self.places.guest
        if not all((guest / name).exists() for name in manifest.ARTEFACTS):
            return
        (kernel_package, *_) = pins.read_debs(self.places.lock("kernel"))
        manifest.write(
            guest,
            machine=self.wanted.machine,
            kernel=f"{kernel_package.name} {kernel_package.version}",
            inputs={"compiler": programs.compiler()},
        )

    def images(self) -> None:
        self._base()
        self._code_interpreter()

    def _base(self) -> None:
        lock = self.places.lock("base")
        definition = self.places.source / "images" / "base"
        layout = self.places.images / base_image.NAME

        def build() -> None:
            debs = pins.read_debs(lock)
            with self._scratch() as scratch:
                paths = self.packages.fetch(debs)
                base_image.build(paths, [deb.name for deb in debs], definition, self._base_layer, scratch)
            self._write_layout(layout, [self._base_layer_file()], base_image.RUN)

        stamps.make(
            "base",
            stamp=self.places.stamps / "base.json",
            inputs={"debs": sha256_file(lock), "definition": sha256_tree(definition)},
            outputs=(self._base_layer, layout / "index.json"),
            build=build,
            builders=(commands, apt, base_image, layer_tar, oci, rootfs),
        )

    def _code_interpreter(self) -> None:
        debs = self.places.lock("code-interpreter")
        server, kernels = self.places.lock("server-wheels"), self.places.lock("kernel-wheels")
        layer = self.places.output / "layers" / "code-interpreter.tar"
        layout = self.places.images / code_interpreter_image.NAME

        def build() -> None:
            with self._scratch() as scratch:
                code_interpreter_image.build(
                    self._base_layer,
                    self._interpreter,
                    packages=self.packages.fetch(pins.read_debs(debs)),
                    wanted=self.wanted.code_interpreter,
                    server=wheels.fetch(server, self.places.cache),
                    kernels=wheels.fetch(kernels, self.places.cache),
                    layer=layer,
                    scratch=scratch,
                )
            top = oci.layer_file(layer, "The code interpreter")
            self._write_layout(layout, [self._base_layer_file(), top], code_interpreter_image.RUN)

        stamps.make(
            "code-interpreter-v1",
            stamp=self.places.stamps / "code-interpreter-v1.json",
            inputs={
                "base": sha256_file(self._base_layer),
                "debs": sha256_file(debs),
                "without": self.wanted.code_interpreter.without,
                "links": self.wanted.code_interpreter.links,
                "server": sha256_file(server),
                "kernels": sha256_file(kernels),
                "source": sha256_tree(self._interpreter),
            },
            outputs=(layer, layout / "index.json"),
            build=build,
            builders=(commands, apt, base_image, code_interpreter_image, java_trust, layer_tar, oci, wheels),
        )

    def _base_layer_file(self) -> oci.LayerFile:
        return oci.layer_file(self._base_layer, "Debian 12")

    def _write_layout(self, directory: Path, layers: list[oci.LayerFile], run: oci.RunConfig) -> None:
        """Replace the layout as a whole, so that no blob of an earlier build stays in it."""
        shutil.rmtree(directory, ignore_errors=True)
        digest = oci.write_layout(directory, layers=layers, run=run, tag=_TAG)
        say(f"{directory.name}: {digest}")

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        """A directory below `build/`: an unpacked image may be more than a small /tmp holds."""
        self.places.output.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.places.output, prefix="scratch-") as scratch:
            yield Path(scratch)

    def lock(self) -> None:
        """Pin what the package mirrors offer now. The differences are for a person to read and commit."""
        for name, wanted, closure in (
            ("kernel", self.wanted.kernel_packages, False),
            ("agent", self.wanted.agent_packages, False),
            ("base", ("?essential", *self.wanted.base_packages), True),
            ("tests", self.wanted.test_packages, False),
        ):
            say(f"lock: {name}")
            self.places.lock(name).write_text(pins.format_debs(self.packages.lock(wanted, closure=closure)))
        say("lock: code-interpreter")
        present = {deb.name for deb in pins.read_debs(self.places.lock("base"))}
        added = self.packages.lock(self.wanted.code_interpreter.packages, closure=True)
        self.places.lock("code-interpreter").write_text(
            pins.format_debs(deb for deb in added if deb.name not in present)
        )
        for name, requirements in (
            ("agent-wheels", self.places.source / "agent" / "requirements.txt"),
            ("server-wheels", self._interpreter / "requirements" / "server.txt"),
            ("kernel-wheels", self._interpreter / "requirements" / "kernel.txt"),
        ):
            say(f"lock: {name}")
            self.places.lock(name).write_text(wheels.lock(requirements, self.places.cache))

    @property
    def _interpreter(self) -> Path:
        return self.places.source / "code-interpreter"

    @property
    def _base_layer(self) -> Path:
        return self.places.output / "layers" / "base.tar"

    def _program_inputs(self) -> dict[str, str]:
        return {"programs": sha256_tree(self.places.source / "init"), "compiler": programs.compiler()}
