"""How a worker tells those who watch over it whether it works: orchestrators by HTTP, systemd by its socket."""
