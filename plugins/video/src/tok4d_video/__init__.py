"""Video modality of tok4d. This package reserves its place in the distribution; it registers no plugin yet."""
