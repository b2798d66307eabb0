"""Ops of the step, one a file, each beside its plain-PyTorch twin. Import them as `evostreaming.kernels.<op>`.

This file stays empty on purpose: transformers imports whatever package named `kernels` it finds on sys.path.
"""
