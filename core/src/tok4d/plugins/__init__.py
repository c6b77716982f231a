"""Plugin host: hook specifications, a lazy and isolating loader, and registries of what plugins provide."""
