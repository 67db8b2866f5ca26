"""Which entry of which layer is seen in the end: the OCI image specification, and our rules where it is silent."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.merging import Seen, job, merge_job, merged, rejected
from tests.support.oci_images import E, tar_bytes

D = Seen("d", mode=0o755)


def test_the_newest_layer_wins() -> None:
    assert merged([E("f", data=b"old")], [E("f", data=b"new")]) == {".": D, "f": Seen("f", b"new")}


def test_directories_merge_and_the_newest_layer_gives_their_attributes() -> None:
    seen = merged([E("d", "d", mode=0o700), E("d/a")], [E("d", "d", mode=0o711), E("d/b")])
    assert seen == {".": D, "d": Seen("d", mode=0o711), "d/a": Seen("f"), "d/b": Seen("f")}


def test_a_directory_that_a_layer_does_not_state_keeps_its_attributes() -> None:
    assert merged([E("d", "d", mode=0o700)], [E("d/a")])["d"] == Seen("d", mode=0o700)


def test_parents_that_no_layer_states_are_made() -> None:
    assert merged([E("a/b/c")]) == {".": D, "a": D, "a/b": D, "a/b/c": Seen("f")}


def test_the_roots_attributes_are_kept() -> None:
    assert merged([E("./", "d", mode=0o711)]) == {".": Seen("d", mode=0o711)}


def test_a_whiteout_hides_a_file() -> None:
    assert merged([E("d/f"), E("d/g")], [E("d/.wh.f")]) == {".": D, "d": D, "d/g": Seen("f")}


def test_a_whiteout_hides_a_whole_directory() -> None:
    assert merged([E("d/e/f")], [E(".wh.d")]) == {".": D}


def test_a_whiteout_does_not_hide_what_its_own_layer_has_wherever_it_stands() -> None:
    new = Seen("f", b"new")
    for layer in ([E(".wh.f"), E("f", data=b"new")], [E("f", data=b"new"), E(".wh.f")]):
        assert merged([E("f", data=b"old")], layer) == {".": D, "f": new}


def test_a_whiteout_of_a_directory_that_is_made_anew_drops_its_old_attributes() -> None:
    assert merged([E("d", "d", mode=0o700), E("d/old")], [E("d/new"), E(".wh.d")]) == {
        ".": D,
        "d": D,
        "d/new": Seen("f"),
    }


def test_a_whiteout_of_what_is_not_there_is_nothing() -> None:
    assert merged([E(".wh.f")], [E("d/.wh.f"), E("g/h/.wh.i")]) == {".": D}


def test_a_file_that_was_hidden_can_come_back() -> None:
    assert merged([E("f", data=b"1")], [E(".wh.f")], [E("f", data=b"3")]) == {".": D, "f": Seen("f", b"3")}


def test_an_opaque_directory_hides_all_below_it_in_lower_layers_only() -> None:
    for layer in ([E("d/.wh..wh..opq"), E("d/new")], [E("d/new"), E("d/.wh..wh..opq")]):
        seen = merged([E("d", "d", mode=0o700), E("d/old"), E("d/sub/deep")], layer)
        assert seen == {".": D, "d": Seen("d", mode=0o700), "d/new": Seen("f")}


def test_an_opaque_root_hides_everything() -> None:
    assert merged([E("a/b"), E("c")], [E(".wh..wh..opq"), E("new")]) == {".": D, "new": Seen("f")}


def test_aufs_bookkeeping_is_left_out() -> None:
    assert merged([E(".wh..wh.aufs"), E(".wh..wh.plnk", "d"), E(".wh..wh.plnk/12.34"), E("f")]) == {
        ".": D,
        "f": Seen("f"),
    }


def test_a_file_replaces_a_directory_and_the_other_way_round() -> None:
    assert merged([E("x/a/b")], [E("x")]) == {".": D, "x": Seen("f")}
    assert merged([E("x")], [E("x", "d")]) == {".": D, "x": D}


def test_nothing_is_written_through_a_symbolic_link_of_a_lower_layer() -> None:
    seen = merged([E("etc/passwd", data=b"root"), E("d", "l", link="/etc")], [E("d/passwd", data=b"evil")])
    assert seen == {
        ".": D,
        "etc": D,
        "etc/passwd": Seen("f", b"root"),
        "d": D,
        "d/passwd": Seen("f", b"evil"),
    }


def test_an_entry_below_a_link_or_file_of_its_own_layer_is_refused() -> None:
    for kind in ("l", "f"):
        parent = E("d", kind, link="/etc" if kind == "l" else "")
        assert rejected([parent, E("d/passwd")]) == "parent-not-directory"
        assert rejected([E("d/passwd"), parent]) == "type-conflict"


def test_an_opaque_marker_below_a_link_hides_nothing_elsewhere() -> None:
    seen = merged([E("etc/passwd"), E("d", "l", link="etc")], [E("d/.wh..wh..opq"), E("d/.wh.passwd")])
    assert seen == {".": D, "etc": D, "etc/passwd": Seen("f"), "d": Seen("l", b"etc")}


def test_of_two_files_of_one_name_in_a_layer_the_last_wins() -> None:
    assert merged([E("f", data=b"1"), E("f", data=b"2")])["f"] == Seen("f", b"2")
    assert merged([E("d", "d", mode=0o700), E("d/f"), E("d", "d", mode=0o711)])["d"] == Seen("d", mode=0o711)


def test_a_name_that_is_a_directory_and_a_file_in_one_layer_is_refused() -> None:
    assert rejected([E("x", "d"), E("x")]) == "type-conflict"
    assert rejected([E("x"), E("x", "d")]) == "parent-not-directory"


def test_symbolic_links_keep_their_targets_whatever_they_are() -> None:
    seen = merged([E("a", "l", link="../../../etc/shadow"), E("b", "l", link="/proc/self")])
    assert (seen["a"].content, seen["b"].content) == (b"../../../etc/shadow", b"/proc/self")


def test_hard_links_share_their_content() -> None:
    seen = merged([E("f", data=b"1"), E("g", "h", link="f"), E("h", "h", link="./g")])
    assert seen["g"] == Seen("f", b"1", shared_with="f")
    assert seen["h"] == Seen("f", b"1", shared_with="f")


def test_a_hard_link_survives_when_the_name_it_was_made_from_does_not() -> None:
    for upper in ([E(".wh.f")], [E("f", data=b"2")]):
        seen = merged([E("f", data=b"1", mode=0o4755), E("g", "h", link="f"), E("h", "h", link="f")], upper)
        assert seen["g"] == Seen("f", b"1", 0o4755)
        assert seen["h"] == Seen("f", b"1", 0o4755, shared_with="g")


def test_a_hard_link_means_the_file_that_had_the_name_when_it_was_made() -> None:
    seen = merged([E("f", data=b"1"), E("g", "h", link="f"), E("f", data=b"2")])
    assert (seen["f"], seen["g"]) == (Seen("f", b"2"), Seen("f", b"1"))


def test_a_hard_link_to_itself_changes_nothing() -> None:
    assert merged([E("f", data=b"1"), E("f", "h", link="f")]) == {".": D, "f": Seen("f", b"1")}


def test_hard_links_to_symbolic_links_are_links_of_the_link() -> None:
    assert merged([E("s", "l", link="t"), E("g", "h", link="s")], [E(".wh.s")])["g"] == Seen("l", b"t")


def test_a_hard_link_needs_an_earlier_file_of_its_own_layer() -> None:
    assert rejected([E("g", "h", link="f"), E("f")]) == "bad-link"
    assert rejected([E("d", "d"), E("g", "h", link="d")]) == "bad-link"
    assert rejected([E("f")], [E("g", "h", link="f")]) == "bad-link"
    assert rejected([E("etc/x"), E("d", "l", link="etc"), E("g", "h", link="d/x")]) == "bad-link"


def test_the_report_counts_what_was_read() -> None:
    layers = [tar_bytes([E("a", data=b"1"), E("b")]), tar_bytes([E(".wh.a")])]
    with job(layers) as work:
        _, report = merge_job(work)
    assert (report.entries, report.unpacked_bytes, report.newest_mtime) == (3, sum(map(len, layers)), 1_700_000_000)


# An oracle: layers unpacked over each other into a mapping, by the plainest code there is.


@dataclass(frozen=True)
class Op:
    """One entry of a generated layer."""

    what: str
    """file, dir, link (symbolic), whiteout or opaque."""
    path: str
    data: bytes


def unpack(layers: list[list[Op]]) -> dict[str, Seen] | None:
    """Return what is seen, or None where one layer contradicts itself."""
    tree: dict[str, Seen] = {}
    for layer in layers:
        own: dict[str, Seen] = {}
        for op in layer:
            if op.what in ("whiteout", "opaque"):
                continue
            parents = [op.path[:i] for i, c in enumerate(op.path) if c == "/"]
            if any(own.get(parent, D).kind != "d" for parent in parents):
                return None
            wants_directory = op.what == "dir"
            if op.path in own and (own[op.path].kind == "d") != wants_directory:
                return None
            for parent in parents:
                own.setdefault(parent, D)
            own[op.path] = D if wants_directory else Seen({"file": "f", "link": "l"}[op.what], op.data)
        for op in layer:
            hidden_below = f"{op.path}/"
            if op.what == "whiteout":
                tree = {p: s for p, s in tree.items() if p != op.path and not p.startswith(hidden_below)}
            elif op.what == "opaque":
                tree = {p: s for p, s in tree.items() if not p.startswith(hidden_below)}
        for path, seen in own.items():
            if seen.kind != "d" or tree.get(path, D).kind != "d":
                tree = {p: s for p, s in tree.items() if not p.startswith(f"{path}/")}
            tree[path] = seen
    return tree


paths = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join)
ops = st.builds(
    Op,
    st.sampled_from(["file", "file", "dir", "link", "whiteout", "opaque"]),
    paths,
    st.binary(min_size=1, max_size=3).map(lambda data: data.hex().encode()),
)


@settings(max_examples=600, deadline=None)
@given(st.lists(st.lists(ops, max_size=7), min_size=1, max_size=4))
def test_merging_is_unpacking_one_layer_over_the_other(layers: list[list[Op]]) -> None:
    expected = unpack(layers)
    entries = [[_entry(op) for op in layer] for layer in layers]
    if expected is None:
        assert rejected(*entries) in ("parent-not-directory", "type-conflict")
    else:
        assert merged(*entries) == {".": D} | expected


def _entry(op: Op) -> E:
    directory, _, name = op.path.rpartition("/")
    prefix = f"{directory}/" if directory else ""
    match op.what:
        case "file":
            return E(op.path, data=op.data)
        case "link":
            return E(op.path, "l", link=op.data.decode())
        case "dir":
            return E(op.path, "d")
        case "whiteout":
            return E(f"{prefix}.wh.{name}")
        case _:
            return E(f"{op.path}/.wh..wh..opq")
