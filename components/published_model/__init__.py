"""Published models, as what a trained one is compared with: of the hub, of a folder, or behind an endpoint."""
