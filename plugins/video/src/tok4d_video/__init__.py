"""Video modality of tok4d: clips of any length, container and size, their sources and metrics."""
