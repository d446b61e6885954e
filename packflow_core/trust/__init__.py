"""How far an energy, an order and a search can be trusted."""
