"""Open a session in one process, and stop it in another.

The first process releases the session: its client stops tracking it and returns its token. The second process uses
the token to stop the session. The token travels through a pipe, because other users of the machine can read arguments
and environment variables, and they end up in logs.

    pip install .  # in the root of the repository
    export LIVEAVATAR_API_KEY=...
    python handoff.py
"""

import contextlib
import json
import os
import subprocess
import sys

from liveavatar import ConflictError, LiveAvatarApi, LiveAvatarError, LiveAvatarNewSessionRequest, NotFoundError

WAYNE = LiveAvatarNewSessionRequest(avatar_id="dd73ea75-1218-4ef3-92ce-606d5f7fbc0a", is_sandbox=True)


def open_session() -> None:
    """Open a session and hand it to another process."""
    with LiveAvatarApi() as api:
        session = api.new_session(WAYNE)
        token = api.release_session(session.session_id)
        try:
            print(f"process {os.getpid()} opened {session.session_id}", flush=True)
            handover = json.dumps({"session_id": session.session_id, "session_token": token})
            subprocess.run([sys.executable, __file__, "close"], input=handover, text=True, check=True)
        except BaseException:
            # The other process did not stop it, and closing the client does not stop a released session.
            with contextlib.suppress(NotFoundError, ConflictError):  # the session has already ended
                api.stop_session(session.session_id)
            raise


def close_session() -> None:
    """Stop a session that arrives on stdin."""
    handover = json.load(sys.stdin)
    with LiveAvatarApi() as api:
        api.stop_session(handover["session_id"], handover["session_token"], reason="USER_CLOSED")
    print(f"process {os.getpid()} stopped {handover['session_id']}")


if __name__ == "__main__":
    try:
        close_session() if sys.argv[1:] == ["close"] else open_session()
    except LiveAvatarError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except subprocess.CalledProcessError:
        sys.exit("the other process failed, so the session was stopped here")
