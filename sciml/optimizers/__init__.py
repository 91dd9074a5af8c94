"""Stages of `training.fit` that know curvature: Gauss-Newton, self-scaled Broyden, SOAP, variable projection."""

from sciml.optimizers.broyden import SSBroyden
from sciml.optimizers.gaussnewton import GaussNewton, standard_errors
from sciml.optimizers.jacobians import sample_jacobian
from sciml.optimizers.projection import VariableProjection
from sciml.optimizers.soap import SOAP

__all__ = ["SOAP", "GaussNewton", "SSBroyden", "VariableProjection", "sample_jacobian", "standard_errors"]
