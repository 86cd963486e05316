"""Why a level cannot be given."""


class SandboxBroken(OSError):
    """What a level stands on cannot be started on this machine now; the message says why."""
