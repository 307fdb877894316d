"""One process opens a session, another one ends it.

The first releases the session: its client forgets it without stopping it, and hands out its token. The second takes
the token and stops the session with it. The token travels over a pipe: an argument or an environment variable can
be read by others on the machine, and ends up in logs.

    pip install liveavatar
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


def opener() -> None:
    """Open a session and give it away."""
    with LiveAvatarApi() as api:
        session = api.new_session(WAYNE)
        token = api.release_session(session.session_id)
        try:
            print(f"process {os.getpid()} opened {session.session_id}", flush=True)
            baton = json.dumps({"session_id": session.session_id, "session_token": token})
            subprocess.run([sys.executable, __file__, "close"], input=baton, text=True, check=True)
        except BaseException:
            # Nobody has taken it over, and leaving the `with` block ends only what is not released.
            with contextlib.suppress(NotFoundError, ConflictError):  # the other has ended it before it failed
                api.stop_session(session.session_id)
            raise


def closer() -> None:
    """End a session that is given over on stdin."""
    baton = json.load(sys.stdin)
    with LiveAvatarApi() as api:
        api.stop_session(baton["session_id"], baton["session_token"], reason="USER_CLOSED")
    print(f"process {os.getpid()} stopped {baton['session_id']}")


if __name__ == "__main__":
    try:
        closer() if sys.argv[1:] == ["close"] else opener()
    except LiveAvatarError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except subprocess.CalledProcessError:
        sys.exit("the session was not taken over; it is stopped")
