"""How tasks come from NATS to a Runner and their Results go back."""
