"""Second-order stages for `training.fit`: Gauss-Newton on per-sample Jacobians, and self-scaled Broyden."""

from sciml.optimizers.broyden import SSBroyden
from sciml.optimizers.gaussnewton import GaussNewton, standard_errors
from sciml.optimizers.jacobians import sample_jacobian

__all__ = ["GaussNewton", "SSBroyden", "sample_jacobian", "standard_errors"]
