"""How much the choices of a protocol move its figures: one choice at a time, all else as in the protocol."""
