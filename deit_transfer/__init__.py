"""Fine-tune, distill and compare data-efficient image transformers (DeiT)."""

__all__ = ["__version__"]

__version__ = "0.1.0"
