"""The dashboard: a web page over run folders. It reads the store and writes nothing there."""
