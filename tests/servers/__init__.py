"""Real servers for tests, each on free ports of 127.0.0.1 in a folder of its own, stopped with the test session."""
