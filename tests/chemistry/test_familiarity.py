"""The score: a mixture is known at the temperatures at which it was met, not at all of them."""

import torch

from sciml.chemistry.familiarity import Familiarity


def trained(n=4000, seed=0):
    """Two species that change places from cold to hot, and a third that is always there."""
    g = torch.Generator().manual_seed(seed)
    T = 4 * torch.rand(n, 1, generator=g, dtype=torch.float64) - 2
    noise = 0.05 * torch.randn(n, 2, generator=g, dtype=torch.float64)
    return torch.cat([T, torch.tanh(3 * T) + noise[:, :1], -torch.tanh(3 * T) + noise[:, 1:], torch.ones_like(T)], 1)


def test_its_own_states_are_inside_and_new_ones_of_the_same_kind_too():
    known = Familiarity.fit(trained())
    assert (known(trained()) > 1).double().mean() <= 0.002
    assert (known(trained(seed=1)) > 1).double().mean() <= 0.01


def test_what_is_burnt_is_not_known_cold():
    known, hot = Familiarity.fit(trained()), trained(seed=2)
    hot = hot[hot[:, 0] > 1.0]
    cold = hot.clone()
    cold[:, 0] = -1.5
    assert (known(hot) <= 1).double().mean() > 0.98 and (known(cold) > 5).all()
    # negative control: with one covariance for all temperatures it would be
    one = Familiarity(4, 1)
    u = trained()
    one.low.copy_(u.amin(0)), one.high.copy_(u.amax(0))
    spread, axes = torch.linalg.eigh(torch.cov(u.T))
    one.centres[0] = u.mean(0)
    one.whitening[0] = axes * torch.where(spread > 1e-8 * spread.amax(), spread.clamp_min(1e-300).rsqrt(), 0.0)
    one.radii[0] = one.lengths(u)[:, 0].quantile(0.999)
    assert one(cold).median() < 0.3 * known(cold).median()


def test_beyond_the_range_of_any_input_is_outside():
    known, u = Familiarity.fit(trained()), trained()[:3]
    u[:, 3] += 1e-3  # a species whose fraction never changed
    assert (known(u) > 1).all()


def test_few_states_make_one_part():
    assert len(Familiarity.fit(trained(30)).radii) == 1
