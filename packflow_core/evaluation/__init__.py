"""How good the proposals of a generator are (PackFlow, section 4.3)."""
