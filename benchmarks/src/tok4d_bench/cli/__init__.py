"""`tok4d bench`: one file a command."""
