"""Steps of E2B's template builder in a real guest, and what sandboxes of the template then are."""

from __future__ import annotations

from datetime import timedelta

from tests.integration.template_builds.conftest import Node, said, step


async def test_what_steps_set_holds_for_later_steps_and_for_sandboxes(node: Node) -> None:
    build_id, log = await node.built(
        step("RUN", "echo I am $(id -un) in $(pwd) && sudo id -un"),
        step("ENV", "COLOUR", "blue", "BOTH", "$HOME and ${COLOUR:-none}"),
        step("ENV", "PATH", "/opt/own:$PATH"),
        step("WORKDIR", "project/sub"),
        step("RUN", "echo $COLOUR > made && pwd"),
        step("RUN", "id -u > /from-root", "root"),
        step("USER", "worker"),
        step("RUN", "echo I am $(id -un) in $(pwd)"),
    )
    assert "[builder 1/8] [stdout]: I am user in /home/user" in log
    assert "[builder 1/8] [stdout]: root" in log
    assert "[builder 5/8] [stdout]: /home/user/project/sub" in log
    assert "[builder 8/8] [stdout]: I am worker in /home/user/project/sub" in log
    async with node.sandbox(build_id) as guest:
        assert await said(guest, "id -un; pwd; echo $COLOUR") == "worker\n/home/user/project/sub\nblue"
        done = await said(guest, "stat -c %U /home/user/project made; cat made /from-root")
        assert done == "user\nuser\nblue\n0"
        done_plain = await guest.run(("env",), deadline=timedelta(seconds=30))
        variables = dict(line.split("=", 1) for line in done_plain.stdout.splitlines())
        assert variables["BOTH"] == "/home/user and none"
        assert variables["PATH"].startswith("/opt/own:/usr/local/sbin:")
        marks = await said(guest, "cat /.e2b; stat -c %a /code /usr/local/bin")
        assert marks.splitlines() == [
            "ENV_ID=the-template",
            "TEMPLATE_ID=the-template",
            f"BUILD_ID={build_id}",
            "777",
            "777",
        ]


async def test_a_failed_step_is_named_and_leaves_nothing(node: Node) -> None:
    assert await node.failed(step("RUN", "true"), step("RUN", "echo no >&2; exit 3")) == (
        "2",
        "failed to run command 'echo no >&2; exit 3': exit status 3",
    )
    assert await node.failed(step("RUN", "whoami", "root123")) == (
        "1",
        "failed to run command 'whoami': command failed: unauthenticated: invalid username: 'root123'",
    )
