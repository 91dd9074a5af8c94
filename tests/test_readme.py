"""The README's numbers are those of the blessed results."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MSCALE, SCALES, PLAIN = "MscaleDNN, scales 32 x 6", "MscaleDNN, scales 1..32", "plain network"
CLAIMS = [
    ("5000 steps of Adam", "poisson_stored", (MSCALE, "area x MSE"), ".1e"),
    ("the same with scales", "poisson_stored", (SCALES, "area x MSE"), ".1e"),
    ("the same by a plain network", "poisson_stored", (PLAIN, "area x MSE"), ".3f"),
    ("the same by finite differences", "poisson_stored", ("finite differences", "area x MSE"), ".1e"),
    ("perforated square", "poisson_demo", ("frozen features", "rel_l2"), ".1e"),
    ("at nu = 0.01 / pi by", "digits_burgers", ("burgers", "error"), ".1e"),
    ("load on three squares", "digits_load", ("largest error",), ".1e"),
    ("an L-shape with its corner", "digits_corner", ("largest error",), ".1e"),
    ("seconds of `sciml.solve` to every error", "peers_holes", ("rows", "holes", "sciml", "s to 1e-06"), ".1f"),
    ("of finite elements of degree 4 to 1e-2", "peers_holes", ("rows", "holes", "scikit-fem", "s to 1e-02"), ".2f"),
    ("| ... to 1e-6 |", "peers_holes", ("rows", "holes", "scikit-fem", "s to 1e-06"), ".1f"),
    ("of fastlsq, its scale", "peers_holes", ("rows", "holes", "fastlsq", "s to 1e-06"), ".1f"),
    ("DeepXDE after a minute", "peers_holes", ("rows", "holes", "deepxde", "best error"), ".1f"),
    ("scimba, natural gradient", "peers_holes", ("rows", "holes", "scimba", "best error"), ".1f"),
    ("ten squares with random discs", "digits_random", ("largest error",), ".1e"),
    ("a mode of 20 pi", "digits_screened", ("scales", "error"), ".1e"),
    ("ten dimensions", "digits_ten", ("mean", "error"), ".1e"),
    ("5-D, by `sciml.solve`", "digits_five", ("five", "error"), ".1e"),
    ("cube with 27 spherical holes", "digits_cube", ("27 balls", "error"), ".1e"),
    ("on four sets of holes", "digits_square", ("median error",), ".1e"),
    ("of MscaleDNN after 1000", "poisson_demo", ("MscaleDNN", "rel_l2"), ".3f"),
    ("of a plain network of its size", "poisson_demo", (PLAIN, "rel_l2"), ".2f"),
    ("of finite differences with 256", "poisson_demo", ("finite differences", "rel_l2"), ".1e"),
    ("after 700 steps of SOAP", "poisson_holes", ("MscaleDNN", "rel_l2"), ".3f"),
    ("of equal size after as many", "poisson_holes", (PLAIN, "rel_l2"), ".2f"),
    ("eleven problems on which", "digits_elsewhere", ("largest error",), ".1e"),
    ("6 on one core: seconds", "peers_five", ("rows", "five", "sciml", "s to 1e-06"), ".1f"),
    ("DeepXDE, best relative", "peers_five", ("rows", "five", "deepxde", "best error"), ".1e"),
    ("best of all sizes", "peers_five", ("rows", "five", "fastlsq", "best error"), ".3f"),
    ("natural gradient in a minute", "peers_five", ("rows", "five", "scimba", "best error"), ".3f"),
    ("line of period 0.01 on one core", "peers_line", ("rows", "line", "sciml", "s to 1e-06"), ".2f"),
    ("of finite elements, where they win", "peers_line", ("rows", "line", "scikit-fem", "s to 1e-06"), ".3f"),
    ("of finite differences, where they win", "peers_line", ("rows", "line", "differences", "s to 1e-06"), ".3f"),
    ("of fastlsq at a hand-picked scale |", "peers_line", ("rows", "line", "fastlsq", "s to 1e-06"), ".1f"),
    ("five activations x three", "study_paper", ("by optimiser", "frozen"), ".1e"),
    ("of variable projection", "study_paper", ("by optimiser", "projection"), ".1e"),
    ("| ... of Gauss-Newton |", "study_paper", ("by optimiser", "Gauss-Newton"), ".1e"),
    ("| ... of Adam |", "study_paper", ("by optimiser", "Adam"), ".2f"),
    ("at one scale only", "study_paper", ("by scales", "one, frozen"), ".1e"),
    ("at scales from the spectrum", "study_paper", ("by scales", "spectrum, frozen"), ".1e"),
    ("of frozen sines", "study_paper", ("by activation", "sin, frozen"), ".1e"),
    ("best of the compact", "study_paper", ("by activation", "phi, frozen"), ".2f"),
    ("pi on one core: seconds", "peers_burgers", ("rows", "burgers", "sciml", "s to 1e-06"), ".0f"),
    (
        "of finite differences to 1e-4, their best",
        "peers_burgers",
        ("rows", "burgers", "differences", "s to 1e-04"),
        ".0f",
    ),
    ("DeepXDE on it, best", "peers_burgers", ("rows", "burgers", "deepxde", "best error"), ".2f"),
    ("| ... scimba on it |", "peers_burgers", ("rows", "burgers", "scimba", "best error"), ".2f"),
    ("by `sciml.solve`, p = 2", "digits_line", ("p = 2.0, eps = 0.01", "error"), ".1e"),
    ("p = 5, from a generic", "digits_line", ("p = 5.0, eps = 0.01", "error"), ".1e"),
    ("| ... p = 8 |", "digits_line", ("p = 8.0, eps = 0.01", "error"), ".1e"),
    ("seconds of p = 8", "digits_line", ("largest seconds",), ".0f"),
    ("p = 2, eps", "p_laplacian_line_p2", ("MscaleDNN", "rel_l2"), ".1e"),
    ("p-Laplacian line, p = 5", "p_laplacian_line_p5", ("MscaleDNN", "rel_l2"), ".1e"),
    ("p-Laplacian line, p = 3", "p_laplacian_line_p3", ("MscaleDNN", "rel_l2"), ".1e"),
    ("by its flux on panels, 3 s", "p_laplacian_line_p5", ("flux on panels", "rel_l2"), ".1e"),
    ("line, p = 8", "p_laplacian_line_p8", ("MscaleDNN", "rel_l2"), ".1e"),
    ("| ... by its flux |", "p_laplacian_line_p8", ("flux on panels", "rel_l2"), ".1e"),
    ("1500 steps of Adam: s2ReLU", "p_laplacian_activations", ("s2ReLU", "rel_l2"), ".1e"),
    ("| ... sReLU", "p_laplacian_activations", ("sReLU", "rel_l2"), ".1e"),
    ("| ... ReLU", "p_laplacian_activations", ("ReLU", "rel_l2"), ".1e"),
    ("largest value of E3", "p_laplacian_references", ("E3", "reproduced_max"), ".5f"),
    ("of a resolved solution", "p_laplacian_references", ("E3", "resolved_max"), ".5f"),
    ("five dimensions", "p_laplacian_five", ("MscaleDNN", "rel_l2"), ".1e"),
    ("of a network of 2 x 32 sines", "p_laplacian_five", ("Gauss-Newton, 2 x 32 sines", "rel_l2"), ".1e"),
    ("viscosity of Burgers", "burgers_inverse", ("nu", "relative error"), ".4f"),
    ("its standard error", "burgers_inverse", ("nu", "standard error"), ".2e"),
    ("at k = 1 stays", "frequency_paper", ("T_1",), ".0f"),
    ("at k = 3", "frequency_paper", ("T_3",), ".0f"),
    ("at k = 5", "frequency_paper", ("T_5",), ".0f"),
    ("error of a network after 15 s", "frequency_handover", ("rel_l2", "network"), ".3f"),
    ("of Jacobi iterations for as long", "frequency_handover", ("rel_l2", "Jacobi"), ".3f"),
    ("handed over to Jacobi", "frequency_handover", ("rel_l2", "network, then Jacobi"), ".1e"),
    ("of full multigrid", "frequency_handover", ("full multigrid", "rel_l2"), ".1e"),
    ("exponent of the way", "regimes_paper", ("S_w", "gamma=0.5,gamma'=0"), ".3f"),
    ("gamma = 1 (published", "regimes_paper", ("S_w", "gamma=1,gamma'=0"), ".3f"),
    ("gamma = 1.75", "regimes_paper", ("S_w", "gamma=1.75,gamma'=0"), ".3f"),
    ("orientations among", "regimes_condensation", ("early",), ".0f"),
    ("announces the loss spike", "regimes_spikes", ("spike", "lead"), ".0f"),
    ("error after 2 samples", "regimes_samples", ("factored", "test_mse", "2"), ".1e"),
    ("for a linear model", "regimes_samples", ("linear", "test_mse", "2"), ".2f"),
    ("the mean squared error jumps", "regimes_jump", ("residual", "J_mse"), ".1e"),
    ("| ... of Burgers' equation", "regimes_jump_burgers", ("residual", "J_mse"), ".0f"),
    ("Green's kernel of", "greens_line", ("kernel", "rel_l2"), ".1e"),
    ("unseen sums of sines", "greens_line", ("sines", "rel_l2"), ".1e"),
    ("square with three holes", "greens_plate", ("fields", "rel_l2"), ".1e"),
    ("narrow Gaussians", "greens_plate", ("bumps", "rel_l2"), ".1e"),
    ("operator of the unit square", "greens_square", ("fields", "rel_l2"), ".1e"),
    ("with 14 x 14 nodes", "greens_square", ("timing", "operator, 14^2 nodes", "seconds"), ".3f"),
    ("| ... its error |", "greens_square", ("timing", "operator, 14^2 nodes", "rel_l2"), ".1e"),
    ("by a sparse factorisation", "greens_square", ("timing", "sparse LU", "seconds"), ".3f"),
    ("of that second-order scheme", "greens_square", ("timing", "sparse LU", "rel_l2"), ".1e"),
    ("that vary over the square", "greens_variable-square", ("fields", "rel_l2"), ".1e"),
    ("operator of the unit cube", "greens_cube", ("fields", "rel_l2"), ".1e"),
    ("trained in 0.02 s on one core", "greens_peers", ("table", 0, "bumps"), ".1e"),
    ("DeepONet (DeepXDE)", "greens_peers", ("table", 1, "bumps"), ".1f"),
    ("FNO (neuraloperator)", "greens_peers", ("table", 2, "bumps"), ".2f"),
    ("the family of the training: DeepONet", "greens_peers", ("table", 1, "fields"), ".2f"),
    ("| ... on them: FNO |", "greens_peers", ("table", 2, "fields"), ".2f"),
    ("plain network G(x, x')", "greens_plain", ("fields", "rel_l2"), ".1e"),
    ("the paper's quadratic sources", "greens_plain", ("quadratic", "rel_l2"), ".1e"),
    ("a family that it was not shown", "greens_plain", ("bumps", "rel_l2"), ".1e"),
    ("| ... sums of sines, another one |", "greens_plain", ("sines", "rel_l2"), ".1e"),
    ("inflow of waves", "radiative_transfer_paper", ("eps 1, waves", "rel_l2"), ".1e"),
    ("| ... eps = 0.01 |", "radiative_transfer_paper", ("eps 0.01, waves", "rel_l2"), ".1e"),
    ("method on a learned Green's operator", "modnet_reaction", ("equation", "rel_l2"), ".1e"),
    ("a nonlinear operator of short times", "modnet_paper", ("labels only", "rel_l2"), ".1e"),
    ("| ... the worst of ten |", "modnet_paper", ("labels only", "worst"), ".1e"),
    ("2 members with coarse labels", "modnet_ablation_semigroup", ("both, 2 labels", "rel_l2"), ".3f"),
    ("| ... Burgers by the equation alone |", "modnet_ablation_semigroup", ("model only", "rel_l2"), ".3f"),
    ("| ... Burgers by the labels alone |", "modnet_ablation_semigroup", ("labels only, 2 labels", "rel_l2"), ".3f"),
    ("by a plain network, eps = 0.3", "modnet_ablation_transport", ("both, 4 labels", "rel_l2"), ".4f"),
    ("| ... the equation alone |", "modnet_ablation_transport", ("model only", "rel_l2"), ".4f"),
    ("| ... the labels alone |", "modnet_ablation_transport", ("labels only, 4 labels", "rel_l2"), ".4f"),
    ("reduced to half", "regimes_reduction", ("growth of the error",), ".3f"),
    ("a multi-scale network of 240", "regimes_reduction_mscale", ("growth of the error",), ".3f"),
    ("hydrogen in air, 1 atm", "combustion_demo", ("delay error, max",), ".4f"),
    ("largest error of the final temperature", "combustion_demo", ("final T error, max",), ".2f"),
    ("species left after 300 masks", "mechanism_reduction_gri30", ("methods", "integer", "size"), ".0f"),
    ("masks that size was reached", "mechanism_reduction_gri30", ("methods", "integer", "size reached after"), ".0f"),
    ("left by plain greedy", "mechanism_reduction_gri30", ("methods", "greedy", "size"), ".0f"),
    ("| ... after how many masks", "mechanism_reduction_gri30", ("methods", "greedy", "size reached after"), ".0f"),
    ("left by DRGEP", "mechanism_reduction_gri30", ("methods", "DRGEP", "size"), ".0f"),
    ("left by the second stage", "mechanism_reduction_gri30", ("reactions",), ".0f"),
    (
        "between and beyond the design",
        "mechanism_reduction_gri30",
        ("errors", "held out", "ignition delay", "max"),
        ".3f",
    ),
    ("when delays alone count", "mechanism_reduction_gri30_delay", ("species",), ".0f"),
    ("reactors and flame speeds together", "mechanism_reduction_gri30_flame", ("species",), ".0f"),
    ("over its tolerance", "mechanism_reduction_gri30_flame", ("largest held-out error / tolerance",), ".2f"),
    ("nDodecane_Reitz", "mechanism_reduction_dodecane", ("species",), ".0f"),
    ("as mask number", "mechanism_reduction_dodecane", ("methods", "integer", "size reached after"), ".0f"),
    ("DRGEP alone leaves", "mechanism_reduction_dodecane", ("methods", "DRGEP", "size"), ".0f"),
    ("at other conditions, in", "mechanism_reduction_dodecane", ("largest held-out error / tolerance",), ".2f"),
    ("| n-heptane, 1 and 20 atm", "mechanism_reduction_heptane", ("species",), ".0f"),
    ("largest error elsewhere", "mechanism_reduction_heptane", ("largest held-out error / tolerance",), ".2f"),
    ("n-heptane (116 species", "mechanism_reduction_heptane_1atm", ("species",), ".0f"),
    (
        "a design of 100 coordinates",
        "design_paper",
        ("methods", "projected gradient and screening", "objective"),
        ".2f",
    ),
    ("its objective by random moves", "design_paper", ("methods", "random moves", "objective"), ".2f"),
    ("its objective by COBYLA", "design_paper", ("methods", "COBYLA", "objective"), ".4f"),
    ("microseconds per state", "combustion_speed", ("table", 4, "microseconds"), ".1f"),
    ("reused CVODE reactor at rtol 1e-6", "combustion_speed", ("table", 4, "speed-up"), ".0f"),
    ("| ... than at rtol 1e-9", "combustion_speed", ("table", 5, "speed-up"), ".0f"),
    ("where CVODE wins", "combustion_speed", ("table", 0, "speed-up"), ".2f"),
    ("a premixed flame of it", "combustion_flame", ("speed of surrogate against CVODE",), ".3f"),
    ("to a network by one command", "combustion_h2", ("delay error, mean",), ".4f"),
    ("the largest of the 18", "combustion_h2", ("delay error, max",), ".4f"),
    ("perturbed by powers", "combustion_h2", ("perturbed: recovered",), ".3f"),
    ("plain training on 9000 pairs", "combustion_ablation", ("table", 7, "delay error, median"), ".2f"),
    ("with logarithms instead", "combustion_ablation", ("table", 5, "delay error, median"), ".2f"),
    ("trained on perturbed states", "combustion_ablation", ("table", 11, "recovered"), ".2f"),
]


@pytest.mark.parametrize(("row", "result", "path", "form"), CLAIMS)
def test_measured_numbers(row, result, path, form):
    metrics = json.loads((ROOT / "data" / "results" / f"{result}.json").read_text())["metrics"]
    value = metrics.get("median", metrics)  # one seed has no median
    for key in path:
        value = value[key]
    lines = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("|") and row in line]
    assert len(lines) == 1
    assert lines[0].split("|")[2].strip() == format(value, form)


def test_every_row_is_held_against_a_file():
    text = (ROOT / "README.md").read_text().split("\n## What has been measured")[1].split("\n## ")[0]
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith(("| what", "| ---"))]
    assert len(rows) == len(CLAIMS)


def test_results_state_where_they_come_from():
    for path in (ROOT / "data" / "results").glob("*.json"):
        record = json.loads(path.read_text())
        provenance = record["provenance"]
        assert record["seeds"] and record["config"] and provenance["commit"] and provenance["device"]["cpu"]
        assert provenance["command"].startswith("sciml run")
