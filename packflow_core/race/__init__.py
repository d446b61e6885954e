"""The race: run folders of one target compared at an equal budget."""
