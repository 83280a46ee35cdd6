import jax
import numpy as np

from rrd_jax import networks
from rrd_jax.teacher import ensemble


def test_an_ensemble_averages_the_logits_of_its_members():
    members = (networks.create("resnet8", 4), networks.create("wrn_16_1", 4))
    both = ensemble.Ensemble(members, (0.5, 0.5))
    images = np.random.default_rng(0).standard_normal((2, 16, 16, 3)).astype(np.float32)
    variables = both.init(jax.random.key(0), images)
    outputs = both.apply(variables, images, train=False)
    first, second = (
        network.apply(member, images, train=False)
        for network, member in ensemble.members(both, variables)
    )
    np.testing.assert_allclose(outputs.logits, (first.logits + second.logits) / 2, rtol=1e-6)
    np.testing.assert_array_equal(outputs.members[1].embedding, second.embedding)
    assert networks.summarize(both, (16, 16, 3)).parameters == sum(
        networks.summarize(member, (16, 16, 3)).parameters for member in members
    )
