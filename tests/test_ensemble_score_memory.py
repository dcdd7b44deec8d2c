"""An index that remembers gives the same Dice, and computes each once."""

import numpy as np

from ensemble.index import DisagreementIndex
from ensemble.score_memory import RememberingIndex, ScoreMemory
from tests.simulated_competitions import networks_of_all_kinds


def test_the_same_dice_whatever_was_asked_before() -> None:
    plain = networks_of_all_kinds(np.random.default_rng(0), 23)
    index = RememberingIndex.around(plain)
    rng = np.random.default_rng(1)
    pool = rng.dirichlet(np.ones(4), 6)
    for _ in range(60):
        images = rng.permutation(23)[: rng.integers(1, 23)]
        part = rng.permutation(23)[: rng.integers(2, 23)]
        some = rng.integers(0, len(part), 5)
        weights, thresholds = pool[rng.integers(0, 6, 4)], rng.choice([-0.5, 0.0, 0.25], 4)
        np.testing.assert_array_equal(
            index.scores(weights, thresholds, images=images), plain.scores(weights, thresholds, images=images)
        )
        np.testing.assert_array_equal(
            index.of(part).scores(weights, images=some), plain.of(part).scores(weights, images=some)
        )
        vote = str(rng.choice(["probability", "majority"]))
        np.testing.assert_array_equal(
            index.of(part).vote_scores(vote, weights[0]), plain.vote_scores(vote, weights[0], images=part)
        )
    np.testing.assert_array_equal(index.scores(pool), plain.scores(pool))


def test_nothing_is_computed_twice_and_no_more_than_the_limit_is_kept() -> None:
    asked: list[tuple[int, int]] = []

    def compute(keys: np.ndarray, places: np.ndarray) -> np.ndarray:
        asked.append((len(keys), len(places)))
        return np.add.outer(places / 100, keys)

    memory = ScoreMemory(10, limit_bytes=2 * 10 * 8)
    first = memory.recall(["a", "b"], np.arange(6), compute)
    np.testing.assert_array_equal(first, np.add.outer(np.arange(6) / 100, np.arange(2)))
    np.testing.assert_array_equal(memory.recall(["b", "a"], np.array([5, 0]), compute), first[[5, 0]][:, ::-1])
    assert asked == [(2, 6)]
    memory.recall(["a"], np.arange(10), compute)
    assert asked[1:] == [(1, 4)]
    # a third does not fit: computed each time, and right
    for _ in range(2):
        memory.recall(["c"], np.arange(3), compute)
    assert asked[2:] == [(1, 3), (1, 3)]


def test_parts_of_an_index_share_its_pixels() -> None:
    index = networks_of_all_kinds(np.random.default_rng(0), 7)
    part = index.of(np.array([5, 2]))
    assert isinstance(part, DisagreementIndex)
    assert part.logits[0] is index.logits[5] and part.agreed_truths[1] is index.agreed_truths[2]
    weights = np.full(4, 0.25)
    np.testing.assert_array_equal(part.scores(weights), index.scores(weights)[[5, 2]])


def test_a_fit_on_the_same_images_is_made_once_whatever_part_asks() -> None:
    index = RememberingIndex.around(networks_of_all_kinds(np.random.default_rng(0), 7))
    made: list[float] = []

    def fit() -> np.ndarray:
        made.append(0.0)
        return np.full(4, float(len(made)))

    first = index.fitted("way", np.array([1, 3, 5]), fit)
    first[:] = -1
    part = index.of(np.array([1, 3, 5]))
    np.testing.assert_array_equal(part.fitted("way", np.arange(3), fit), np.ones(4))
    assert len(made) == 1
    np.testing.assert_array_equal(index.fitted("way", np.array([1, 3]), fit), np.full(4, 2.0))
    np.testing.assert_array_equal(index.fitted("other", np.array([1, 3]), fit), np.full(4, 3.0))
