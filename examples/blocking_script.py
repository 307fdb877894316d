"""A script that holds one session for a while and closes it, however the script ends.

It opens the free avatar "Wayne", prints how to join, and waits: 20 seconds, or as many as you say. Ctrl-C and a
SIGTERM (from a supervisor or a container that stops) end it early, and the session with it.

    pip install liveavatar
    export LIVEAVATAR_API_KEY=...
    python blocking_script.py 30

Without an account, run `python -m liveavatar.mock` in another terminal first, and export what it prints.
"""

import signal
import sys
import time

from liveavatar import LiveAvatarApi, LiveAvatarError, LiveAvatarNewSessionRequest

WAYNE = LiveAvatarNewSessionRequest(avatar_id="dd73ea75-1218-4ef3-92ce-606d5f7fbc0a", is_sandbox=True)


def main(seconds: float) -> None:
    """Hold a session for so many seconds."""
    with LiveAvatarApi() as api, api.session(WAYNE) as session:
        print(f"session {session.session_id} is open in {session.livekit_url}", flush=True)
        # session.meet_url opens in a browser. It holds the room's token: show it to nobody but the user.
        time.sleep(min(seconds, session.max_session_duration or seconds))
    print("closed")


if __name__ == "__main__":
    # By default a SIGTERM ends Python on the spot, `with` blocks and all. As an exception, it lets them finish.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        main(float(sys.argv[1]) if len(sys.argv) > 1 else 20)
    except LiveAvatarError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
