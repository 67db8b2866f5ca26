"""CoreDNS, compiled from the module that `coredns/go.mod` and `coredns/go.sum` pin."""

from __future__ import annotations

from bundle.stage import Outcome, Stamp, Workplace, file_inputs, link, run


def build(place: Workplace) -> Outcome:
    """Fill `bin/`."""
    source = place.source / "bundle" / "coredns"
    target = place.directory("bin") / "coredns"
    toolchain = run(["go", "env", "GOVERSION"]).strip()
    stamp = Stamp.of(place, "bin", [toolchain.encode(), *file_inputs(place.source, source.iterdir())])
    if stamp.holds() and target.exists():
        return Outcome("coredns, as before", kept=True)

    program = place.cache / "go" / "bin" / f"coredns-{stamp.key[:16]}"
    if not program.exists():
        partial = program.with_suffix(".part")
        environment = {
            "CGO_ENABLED": "0",
            "GOFLAGS": "-mod=readonly -trimpath -buildvcs=false",
            "GOCACHE": str(place.cache / "go" / "build"),
            "GOMODCACHE": str(place.cache / "go" / "mod"),
        }
        run(["go", "build", "-ldflags=-s -w", "-o", partial, "."], cwd=source, env=environment)
        partial.rename(program)
    link(program, target)
    stamp.set()
    return Outcome("coredns")
