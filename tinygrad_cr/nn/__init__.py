"""Layers and the networks built from them."""

from tinygrad_cr.nn.flat import FlatParameters
from tinygrad_cr.nn.init import standard_deviation
from tinygrad_cr.nn.layers import Affine, AffineReLUDropout, Dropout, ReLU
from tinygrad_cr.nn.members import member_of, stack
from tinygrad_cr.nn.mlp import MLP, Sequential
from tinygrad_cr.nn.module import Module
from tinygrad_cr.nn.parameter import Parameter

__all__ = [
    "MLP",
    "Affine",
    "AffineReLUDropout",
    "Dropout",
    "FlatParameters",
    "Module",
    "Parameter",
    "ReLU",
    "Sequential",
    "member_of",
    "stack",
    "standard_deviation",
]
