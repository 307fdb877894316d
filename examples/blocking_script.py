"""Keep one session open for a while, and close it however the script ends.

The script opens the free avatar "Wayne", prints how to join its room, and waits: 20 seconds, or the number of seconds
that you pass. Ctrl-C or SIGTERM (from a supervisor or a container that stops) ends the script early, and the session
with it.

    pip install .  # in the root of the repository
    export LIVEAVATAR_API_KEY=...
    python blocking_script.py 30

Without an account, run `python -m liveavatar.mock` in another terminal first, and export the variables it prints.
"""

import sys
import time

import liveavatar
from liveavatar import LiveAvatarApi, LiveAvatarError, LiveAvatarNewSessionRequest

WAYNE = LiveAvatarNewSessionRequest(avatar_id="dd73ea75-1218-4ef3-92ce-606d5f7fbc0a", is_sandbox=True)


def main(seconds: float) -> None:
    """Keep a session open for a number of seconds."""
    with LiveAvatarApi() as api, api.session(WAYNE) as session:
        print(f"session {session.session_id} is open in {session.livekit_url}", flush=True)
        # session.meet_url opens in a browser. It contains the room's token, so show it only to the user.
        time.sleep(min(seconds, session.max_session_duration or seconds))
    print("closed")


if __name__ == "__main__":
    liveavatar.graceful_shutdown()  # without it, SIGTERM ends Python at once, and the session keeps running
    try:
        main(float(sys.argv[1]) if len(sys.argv) > 1 else 20)
    except LiveAvatarError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
