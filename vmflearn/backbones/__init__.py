"""Networks that turn images into vectors: timm's, with what self-distillation needs of them."""
