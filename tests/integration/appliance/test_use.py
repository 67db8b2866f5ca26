"""What users do with the unmodified SDK."""

from __future__ import annotations

import json

import pytest

from tests.integration.appliance.conftest import Site
from tests.support.appliance import DOMAIN

pytestmark = [pytest.mark.root, pytest.mark.guest]


def test_five_sandboxes_at_once_run_code_and_keep_files_apart(site: Site) -> None:
    answer = site.ask(
        """
        import json, os
        from concurrent.futures import ThreadPoolExecutor
        from e2b import Sandbox

        def use(number):
            sandbox = Sandbox.create("base", metadata={"number": str(number)})
            blob = os.urandom(300_000)
            sandbox.files.write("/home/user/blob", blob)
            sandbox.files.write("notes/mine.txt", f"sandbox {number} \\u00e9")
            return {
                "id": sandbox.sandbox_id,
                "result": sandbox.commands.run(f"echo $(({number} * 7))").stdout.strip(),
                "hostname": sandbox.commands.run("hostname").stdout.strip(),
                "random": sandbox.commands.run("head -c 16 /dev/urandom | od -An -tx1").stdout.strip(),
                "machine": sandbox.commands.run("cat /etc/machine-id").stdout.strip(),
                "blob": bytes(sandbox.files.read("/home/user/blob", format="bytes")) == blob,
                "text": sandbox.files.read("/home/user/notes/mine.txt"),
                "names": sorted(entry.name for entry in sandbox.files.list("/home/user/notes")),
            }

        with ThreadPoolExecutor(5) as pool:
            print(json.dumps({"all": list(pool.map(use, range(5)))}))
        """
    )
    all_five = answer["all"]
    assert isinstance(all_five, list)
    for number, one in enumerate(all_five):
        assert one["result"] == str(number * 7)
        assert one["hostname"] == one["id"]
        assert one["blob"] is True
        assert one["text"] == f"sandbox {number} é"
        assert one["names"] == ["mine.txt"]
    for identity in ("id", "random", "machine"):
        assert len({one[identity] for one in all_five}) == 5


def test_what_commands_wrote_is_in_the_log_also_after_the_end(site: Site) -> None:
    answer = site.ask(
        """
        import json, os, time, urllib.request
        from e2b import Sandbox

        def ask(path, wanted):
            url = os.environ["E2B_API_URL"] + path
            request = urllib.request.Request(url, headers={"X-API-KEY": os.environ["E2B_API_KEY"]})
            deadline = time.monotonic() + 30
            while True:
                with urllib.request.urlopen(request, timeout=20) as response:
                    answer = json.load(response)
                if wanted in json.dumps(answer) or time.monotonic() > deadline:
                    return answer

        sandbox = Sandbox.create("base")
        sandbox.commands.run("echo from the sandbox; echo to stderr >&2")
        running = ask(f"/v2/sandboxes/{sandbox.sandbox_id}/logs", "from the sandbox")
        sandbox.commands.run("echo last words")
        sandbox.kill()
        ended = ask(f"/sandboxes/{sandbox.sandbox_id}/logs", "last words")
        print(json.dumps({"running": running["logs"], "ended": [json.loads(one["line"]) for one in ended["logs"]]}))
        """
    )
    running, ended = answer["running"], answer["ended"]
    assert isinstance(running, list)
    assert isinstance(ended, list)
    said = {one["message"]: one["fields"].get("event_type") for one in running}
    assert said["from the sandbox"] == "stdout"
    assert said["to stderr"] == "stderr"
    (words,) = [line for line in ended if line["message"] == "last words"]
    assert (words["level"], words["logger"], words["event_type"]) == ("info", "process", "stdout")
    assert not any("warm" in line["message"] for line in ended), "what the pool did is not the owner's"


def test_the_guest_runs_a_kernel_of_its_own(site: Site) -> None:
    answer = site.ask(
        """
        import json
        from e2b import Sandbox
        sandbox = Sandbox.create("base")
        print(json.dumps({"boot_id": sandbox.commands.run("cat /proc/sys/kernel/random/boot_id").stdout.strip(),
                          "memory_kib": int(sandbox.commands.run("awk '/MemTotal/ {print $2}' /proc/meminfo").stdout)}))
        """
    )
    with open("/proc/sys/kernel/random/boot_id") as boot_id:
        assert answer["boot_id"] != boot_id.read().strip()
    assert isinstance(answer["memory_kib"], int)
    assert 128 * 1024 < answer["memory_kib"] < 256 * 1024


def test_commands_have_users_variables_and_directories(site: Site) -> None:
    answer = site.ask(
        """
        import json
        from e2b import CommandExitException, Sandbox
        sandbox = Sandbox.create("base", envs={"FROM_CREATE": "one", "BOTH": "create"})
        run = lambda command, **options: sandbox.commands.run(command, **options).stdout.strip()
        try:
            sandbox.commands.run("echo out; echo err >&2; exit 7")
        except CommandExitException as error:
            failed = [error.exit_code, error.stdout, error.stderr]
        print(json.dumps({
            "user": run("id -un; pwd"),
            "root": run("id -un; pwd", user="root"),
            "sudo": run("sudo id -un"),
            "environment": run("echo $FROM_CREATE $BOTH $CALL", envs={"BOTH": "call", "CALL": "two"}),
            "later": run("echo $FROM_CREATE $BOTH $CALL"),
            "cwd": run("pwd", cwd="/usr/share"),
            "failed": failed,
            "owner": sandbox.files.write("/home/user/mine", "x") and run("stat -c %U /home/user/mine"),
            "root_owner": sandbox.files.write("/root/its", "x", user="root") and run("sudo stat -c %U /root/its"),
        }))
        """
    )
    assert answer == {
        "user": "user\n/home/user",
        "root": "root\n/root",
        "sudo": "root",
        "environment": "one call two",
        "later": "one create",
        "cwd": "/usr/share",
        "failed": [7, "out\n", "err\n"],
        "owner": "user",
        "root_owner": "root",
    }


def test_a_background_command_is_listed_reconnected_to_and_killed(site: Site) -> None:
    answer = site.ask(
        """
        import json
        from e2b import CommandExitException, Sandbox
        sandbox = Sandbox.create("base")
        waits = "while ! test -e /tmp/go; do sleep 0.1; done; echo done; exit 3"
        handle = sandbox.commands.run(waits, background=True)
        pid = handle.pid
        listed = [process.pid for process in sandbox.commands.list()]
        handle.disconnect()
        again = Sandbox.connect(sandbox.sandbox_id).commands.connect(pid)
        sandbox.commands.run("touch /tmp/go")
        try:
            again.wait()
        except CommandExitException as error:
            ended = [error.exit_code, error.stdout]
        sleeper = sandbox.commands.run("sleep 1000", background=True)
        print(json.dumps({
            "listed": pid in listed, "ended": ended,
            "killed": sandbox.commands.kill(sleeper.pid), "killed_again": sandbox.commands.kill(sleeper.pid),
            "left": [process.pid for process in sandbox.commands.list()],
        }))
        """
    )
    assert answer == {"listed": True, "ended": [3, "done\n"], "killed": True, "killed_again": False, "left": []}


def test_a_terminal_takes_input_and_knows_its_size(site: Site) -> None:
    printed = site.run(
        """
        from e2b import PtySize, Sandbox
        sandbox = Sandbox.create("base")
        terminal = sandbox.pty.create(PtySize(rows=31, cols=97))
        sandbox.pty.send_stdin(terminal.pid, b"stty size; echo $TERM\\n")
        sandbox.pty.resize(terminal.pid, PtySize(rows=40, cols=120))
        sandbox.pty.send_stdin(terminal.pid, b"tput cols; exit\\n")
        for _, _, data in terminal:
            if data:
                print(data.decode(), end="")
        """
    )
    assert "xterm-256color" in printed
    assert "120" in printed


def test_the_timeout_moves_and_connect_never_shortens_it(site: Site) -> None:
    answer = site.ask(
        """
        import json
        from datetime import datetime, timezone
        from e2b import Sandbox
        sandbox = Sandbox.create("base", timeout=300)
        end = lambda: sandbox.get_info().end_at
        created = end()
        Sandbox.connect(sandbox.sandbox_id, timeout=60)
        connected_short = end()
        Sandbox.connect(sandbox.sandbox_id, timeout=900)
        connected_long = end()
        sandbox.set_timeout(120)
        left = end() - datetime.now(timezone.utc)
        print(json.dumps({
            "unshortened": connected_short == created, "longer": (connected_long - created).total_seconds(),
            "left": left.total_seconds(),
        }))
        """
    )
    assert answer["unshortened"] is True
    assert isinstance(answer["longer"], float)
    assert 590 < answer["longer"] < 690
    assert isinstance(answer["left"], float)
    assert 60 < answer["left"] <= 120


def test_sandboxes_are_found_by_metadata_page_by_page(site: Site) -> None:
    answer = site.ask(
        """
        import json
        from e2b import Sandbox, SandboxQuery
        made = [Sandbox.create("base", metadata={"who": "a & b=c", "n": str(n)}).sandbox_id for n in range(3)]
        other = Sandbox.create("base", metadata={"who": "d"}).sandbox_id
        pages, paginator = [], Sandbox.list(query=SandboxQuery(metadata={"who": "a & b=c"}), limit=2)
        while paginator.has_next:
            pages.append([one.sandbox_id for one in paginator.next_items()])
        everything = [one.sandbox_id for one in Sandbox.list().next_items()]
        one = Sandbox.list(query=SandboxQuery(metadata={"who": "a & b=c", "n": "1"})).next_items()
        print(json.dumps({"made": made, "other": other, "pages": pages, "everything": everything,
                          "one": [(info.sandbox_id, info.metadata, info.name) for info in one]}))
        """
    )
    made, pages, everything = answer["made"], answer["pages"], answer["everything"]
    assert isinstance(made, list)
    assert isinstance(pages, list)
    assert isinstance(everything, list)
    assert [len(page) for page in pages] == [2, 1]
    assert [one for page in pages for one in page] == made[::-1]
    assert everything == [answer["other"], *made[::-1]]
    assert answer["one"] == [[made[1], {"who": "a & b=c", "n": "1"}, "base"]]


def test_a_key_does_not_see_another_teams_sandbox(site: Site) -> None:
    sandbox_id = site.create()
    key = site.appliance.cli("key", "create", "--name", "others", "--team", "others")["key"]
    answer = site.ask(
        f"""
        import json
        from e2b import Sandbox
        found = [one.sandbox_id for one in Sandbox.list().next_items()]
        try:
            Sandbox.connect({sandbox_id!r})
            error = None
        except Exception as problem:
            error = type(problem).__name__
        print(json.dumps({{"found": found, "error": error, "killed": Sandbox.kill({sandbox_id!r})}}))
        """,
        key=key,
    )
    assert answer == {"found": [], "error": "SandboxNotFoundException", "killed": False}
    assert site.info(sandbox_id)["state"] == "running"


def test_is_running_until_killed(site: Site) -> None:
    answer = site.ask(
        """
        import json
        from e2b import Sandbox
        sandbox = Sandbox.create("base")
        before = sandbox.is_running()
        print(json.dumps({"before": before, "killed": sandbox.kill(), "after": sandbox.is_running(),
                          "killed_again": sandbox.kill()}))
        """
    )
    assert answer == {"before": True, "killed": True, "after": False, "killed_again": False}


def test_one_idempotency_key_is_one_sandbox(site: Site) -> None:
    answer = site.ask(
        """
        import json
        from concurrent.futures import ThreadPoolExecutor
        from e2b import Sandbox
        create = lambda key: Sandbox.create("base", idempotency_key=key).sandbox_id
        with ThreadPoolExecutor(3) as pool:
            same = list(pool.map(create, ["one"] * 3))
        print(json.dumps({"same": same + [create("one")], "other": create("two"),
                          "listed": len(Sandbox.list().next_items())}))
        """
    )
    same = answer["same"]
    assert isinstance(same, list)
    assert len(set(same)) == 1
    assert answer["other"] != same[0]
    assert answer["listed"] == 2


def test_signed_file_urls_work_through_the_sandboxs_own_name(site: Site) -> None:
    urls = site.ask(
        """
        import json, os
        os.environ.pop("E2B_SANDBOX_URL")
        from e2b import Sandbox
        os.environ["E2B_SANDBOX_URL"] = "http://127.0.0.1"
        sandbox = Sandbox.create("base")
        sandbox.files.write("/home/user/report.txt", "signed")
        del os.environ["E2B_SANDBOX_URL"]
        direct = Sandbox.connect(sandbox.sandbox_id)
        print(json.dumps({
            "read": direct.download_url("/home/user/report.txt", user="user"),
            "late": direct.download_url("/home/user/report.txt", use_signature_expiration=1),
            "write": direct.upload_url("/home/user/up.txt", user="user"),
            "host": direct.get_host(49983), "id": sandbox.sandbox_id,
        }))
        """
    )
    host = f"49983-{urls['id']}.{DOMAIN}"
    assert urls["host"] == host
    tls = ("--resolve", f"{host}:443:127.0.0.1", "--cacert", str(site.appliance.ca))
    assert str(urls["read"]).startswith(f"https://{host}/files?")
    assert site.curl(*tls, str(urls["read"])) == (200, "signed")
    status, body = site.curl(*tls, str(urls["read"]).replace("signature=v1_", "signature=v1_A"))
    assert (status, json.loads(body)["message"]) == (401, "invalid signature")
    status, _ = site.curl(*tls, str(urls["read"]).replace("report.txt", "other.txt"))
    assert status == 401
    status, _ = site.curl(*tls, "-F", f"file=@{__file__}", str(urls["write"]))
    assert status == 200
    answer = site.run(
        f"from e2b import Sandbox; print(len(Sandbox.connect({urls['id']!r}).files.read('/home/user/up.txt')) > 1000)"
    )
    assert answer.strip() == "True"
