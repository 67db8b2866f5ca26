"""Layers applied in order to a tree in memory: which entry of which layer is seen under which name in the end.

This is what unpacking the layers over each other would do, with names alone. It follows the OCI image specification:
whiteouts hide what lower layers have and never what their own layer has, wherever in the archive they stand. Names
are never followed through links: an entry below something that is not a directory replaces it if that is in a lower
layer, as separate layer directories under overlayfs would, and is refused if it is in the same layer.
"""

from __future__ import annotations

from collections.abc import Iterator

from appliance.domain.errors import ImageRejected
from appliance.storage.admission import Entry, Path, Role
from appliance.storage.tar import Kind, Member

Inode = int
"""`layer << 32 | index of the entry within the layer`: the entry that brings the content. Hard links share it.

A plain int because an image has up to millions of them.
"""


class _Directory:
    """A directory, and the newest layer that speaks of it. No `member` means that no layer states its attributes."""

    __slots__ = ("children", "layer", "member")

    def __init__(self, layer: int) -> None:
        self.children: dict[str, _Directory | Inode] = {}
        self.layer = layer
        self.member: Member | None = None


class MergedTree:
    """Built by `add` for every entry, lowest layer first, and `end_layer` after each layer."""

    def __init__(self) -> None:
        self._root = _Directory(0)
        self._layer = 0
        self._index = 0
        self._links: dict[Inode, list[Path]] = {}
        self._whiteouts: set[Path] = set()
        self._opaque: set[Path] = set()

    def add(self, entry: Entry) -> None:
        """Apply the next entry of the current layer."""
        inode = self._layer << 32 | self._index
        self._index += 1
        if entry.role is Role.WHITEOUT:
            self._whiteouts.add(entry.path)
        elif entry.role is Role.OPAQUE:
            self._opaque.add(entry.path)
        elif entry.role is Role.CONTENT:
            self._place(entry, inode)

    def end_layer(self) -> None:
        """Let the layer's whiteouts take effect, now that all it has itself is known."""
        for path in self._whiteouts:
            parent = self._find(path[:-1])
            if isinstance(parent, _Directory):
                self._prune(parent, path[-1])
        for path in self._opaque:
            directory = self._find(path)
            if isinstance(directory, _Directory):
                for name in tuple(directory.children):
                    self._prune(directory, name)
        self._whiteouts.clear()
        self._opaque.clear()
        self._layer += 1
        self._index = 0

    def names(self, layer: int, index: int, entry: Entry) -> list[Path]:
        """Return the names under which the content of this entry is seen: none if it is hidden or replaced."""
        if entry.role is not Role.CONTENT or entry.member.kind in (Kind.DIRECTORY, Kind.HARD_LINK):
            return []
        inode = layer << 32 | index
        candidates = dict.fromkeys([entry.path, *self._links.get(inode, ())])
        return [path for path in candidates if self._find(path) == inode]

    def directories(self) -> Iterator[tuple[Path, Member | None]]:
        """Yield every directory, parents first, the root before all, in the order of their names."""
        pending: list[tuple[Path, _Directory]] = [((), self._root)]
        while pending:
            path, directory = pending.pop()
            yield path, directory.member
            for name in sorted(directory.children, reverse=True):
                child = directory.children[name]
                if isinstance(child, _Directory):
                    pending.append(((*path, name), child))

    def _place(self, entry: Entry, inode: Inode) -> None:
        if entry.member.kind is Kind.DIRECTORY:
            directory = self._make_directory(entry.path, entry.path)
            directory.layer, directory.member = self._layer, entry.member
            return
        if entry.member.kind is Kind.HARD_LINK:
            inode = self._link_target(entry)
            self._links.setdefault(inode, []).append(entry.path)
        parent = self._make_directory(entry.path[:-1], entry.path)
        existing = parent.children.get(entry.path[-1])
        if isinstance(existing, _Directory) and self._holds_own(existing):
            raise ImageRejected(
                "type-conflict", f"'{'/'.join(entry.path)}' is a directory and something else in one layer"
            )
        parent.children[entry.path[-1]] = inode

    def _make_directory(self, path: Path, wanted_for: Path) -> _Directory:
        """Return the directory at `path`, made where lower layers have none, replacing what they have instead."""
        directory = self._root
        for name in path:
            child = directory.children.get(name)
            if not isinstance(child, _Directory):
                if child is not None and child >> 32 == self._layer:
                    raise ImageRejected(
                        "parent-not-directory",
                        f"'{'/'.join(wanted_for)}' lies below or replaces '{name}' of the same layer",
                    )
                child = directory.children[name] = _Directory(self._layer)
            directory = child
        return directory

    def _link_target(self, entry: Entry) -> Inode:
        target = self._find(entry.link_path)
        if not isinstance(target, int) or target >> 32 != self._layer:
            raise ImageRejected(
                "bad-link",
                f"'{'/'.join(entry.path)}' links to '{'/'.join(entry.link_path)}', no earlier file of its layer",
            )
        return target

    def _find(self, path: Path) -> _Directory | Inode | None:
        node: _Directory | Inode | None = self._root
        for name in path:
            if not isinstance(node, _Directory):
                return None
            node = node.children.get(name)
        return node

    def _holds_own(self, directory: _Directory) -> bool:
        """Whether the current layer speaks of this directory or of anything below it."""
        if directory.layer == self._layer:
            return True
        return any(
            self._holds_own(child) if isinstance(child, _Directory) else child >> 32 == self._layer
            for child in directory.children.values()
        )

    def _prune(self, parent: _Directory, name: str) -> None:
        """Remove what lower layers have at and below `name`, keeping what the current layer has."""
        node = parent.children.get(name)
        if node is None:
            return
        if isinstance(node, _Directory):
            for child in tuple(node.children):
                self._prune(node, child)
            if node.layer == self._layer:
                return
            if node.children:
                # The current layer has files below it and says nothing of the directory: it is a new one.
                node.layer, node.member = self._layer, None
                return
        elif node >> 32 == self._layer:
            return
        del parent.children[name]
