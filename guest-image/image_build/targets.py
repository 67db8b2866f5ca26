"""What each target is made from, and how. Each is made again only when one of its inputs changed."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from image_build import agent, apt, kernel, manifest, pins, programs, squashfs, stamps, wheels
from image_build.hashing import sha256_file, sha256_tree
from image_build.places import Places
from image_build.progress import say


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

    def lock(self) -> None:
        """Pin what the package mirrors offer now. The differences are for a person to read and commit."""
        for name, wanted, closure in (
            ("kernel", self.wanted.kernel_packages, False),
            ("agent", self.wanted.agent_packages, False),
        ):
            say(f"lock: {name}")
            self.places.lock(name).write_text(pins.format_debs(self.packages.lock(wanted, closure=closure)))
        say("lock: wheels of the agent")
        self.places.lock("agent-wheels").write_text(wheels.lock(self.places.source / "agent" / "requirements.txt"))

    def _program_inputs(self) -> dict[str, str]:
        return {"programs": sha256_tree(self.places.source / "init"), "compiler": programs.compiler()}
