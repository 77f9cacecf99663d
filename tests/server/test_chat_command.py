"""`plait chat` against a real server."""

from __future__ import annotations

import subprocess
import sys

from tests.support.servers import RunningServer

CHAT = [sys.executable, "-W", "error", "-m", "plait", "chat", "--temp", "0", "-n", "12"]


def test_a_server_answers_as_the_model_in_this_process_does(server: RunningServer) -> None:
    def chat(*args: str) -> subprocess.CompletedProcess[str]:
        typed = "Tell me of a dog.\nAnd of a cat.\n/stats\n"
        return subprocess.run([*CHAT, *args], capture_output=True, text=True, input=typed, timeout=120, check=True)

    remote, here = chat("--url", server.url), chat("-c", "1024")
    assert remote.stdout == here.stdout
    assert len(remote.stdout) > 10
    assert "plait-tales-22m-q8_0" in remote.stderr
    assert "last: " in remote.stderr
