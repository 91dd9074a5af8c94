"""Second-order stages of `training.fit`: Gauss-Newton on sample Jacobians, self-scaled Broyden, variable projection."""

from sciml.optimizers.broyden import SSBroyden
from sciml.optimizers.gaussnewton import GaussNewton, standard_errors
from sciml.optimizers.jacobians import sample_jacobian
from sciml.optimizers.projection import VariableProjection

__all__ = ["GaussNewton", "SSBroyden", "VariableProjection", "sample_jacobian", "standard_errors"]
