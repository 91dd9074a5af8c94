"""The problems of the papers, one file per family, told with the public names of `sciml`.

Installed as `sciml.problems`. A file here has a docstring (equation, paper), a frozen dataclass `Config` whose defaults
are the paper's values, `VARIANTS: dict[str, Config]` with `smoke` and `paper` among them, and `run(config, run)` that
returns the metrics. `sciml list` reads the docstring and the keys of `VARIANTS` without importing the file.
"""
