"""A laboratory for the implicit bias of gradient-based training. Names load when first used."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
