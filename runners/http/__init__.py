"""How an HTTP request is made: guarded, bounded, and ended at once; nothing here is loaded before a task needs it."""
