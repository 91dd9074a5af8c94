"""The solvers: each is a frozen bundle of options that turns a problem into a Solution."""
