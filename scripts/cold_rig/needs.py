"""What a part of the rig needs and does not find: told in a line, and the other parts go on."""


class NoRig(Exception):
    """What the rig needs is not here."""
