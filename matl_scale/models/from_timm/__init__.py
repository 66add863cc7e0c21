"""timm's models as backbones: found by name, built, and made graphs of torch's own layers."""
