"""LiveAvatar sessions."""
