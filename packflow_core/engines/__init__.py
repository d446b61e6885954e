"""Energy engines behind one protocol; `registry.get_engine` knows them by name."""
