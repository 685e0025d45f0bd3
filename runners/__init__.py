"""How a task is run: the Runner life cycle, the registry and the built-in runners."""
