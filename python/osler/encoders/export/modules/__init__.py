"""Networks of the papers that no library has, as PyTorch modules under the names of their published weights.

The only files of osler that import PyTorch when they are imported; the builders of `osler.encoders.export` do that.
"""
