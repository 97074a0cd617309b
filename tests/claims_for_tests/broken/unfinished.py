"""A claim that does not parse."""

CLAIM = Claim(
    statement=
