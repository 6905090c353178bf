"""losses/reference.py: golden numbers worked out independently, and logits of a thousand."""

import numpy as np
from test_losses import ADJUSTED, CE, GENERALISED, HALF_ADJUSTED, LOGITS

from losses import reference


def test_the_reference_meets_the_golden_numbers():
    z, y = LOGITS.numpy(), np.arange(3)
    p = np.array([0.01, 0.1, 0.5, 0.9, 0.99])
    two = np.log(np.stack([p, 1 - p], 1))
    first = np.zeros(5, int)
    rows = np.array([[2, 1, 0.1], [0.5, 2.5, 0], [0, 0, 3]])
    w = reference.class_weights(np.array([90, 9, 1]), "balanced")
    weighted = reference.cross_entropy(rows, y, w).sum() / w.sum()
    eye = np.eye(8)
    teacher_logits, divergences = np.array([[1.5, 1.2, 0.3]]), []
    for t in (1, 2, 4):
        loss = reference.distillation(z[:1], y[:1], teacher_logits, t, 1.0)[0]
        divergences.append(loss / t**2)

    found_and_expected = [
        (reference.softmax(z)[0], [0.6590011389, 0.2424329707, 0.0985658904]),
        (reference.cross_entropy(z, y), CE),
        (
            reference.cross_entropy(z, y, label_smoothing=0.1),
            [0.5136966829, 1.4136966829, 2.2236966829],
        ),
        (
            reference.cross_entropy(two, first),
            [4.6051701860, 2.3025850930, 0.6931471806, 0.1053605157, 0.0100503359],
        ),
        (
            reference.focal(two, first, 2),
            [4.5135272993, 1.8650939253, 0.1732867951, 0.0010536052, 1.00503359e-6],
        ),
        (reference.logit_adjusted(z, y, np.array([90, 9, 1])), ADJUSTED),
        (reference.logit_adjusted(z, y, np.array([90, 9, 1]), 0.5), HALF_ADJUSTED),
        (reference.generalised(z, y, 0.7), GENERALISED),
        (
            reference.generalised(two, first, 0.7),
            [1.3716989756, 1.1435339550, 0.5491825619, 0.1015690033, 0.0100150654],
        ),
        (reference.softmax_mse(z, y), [0.1847692033, 1.0179055397, 1.3056397003]),
        (reference.hinge(z, y, "crammer_singer"), [0, 2.0, 2.9]),
        (reference.hinge(z, y, "weston_watkins") / 3, [0, 0.7, 1.6]),
        (w, [0.3703703704, 3.7037037037, 33.3333333333]),
        (weighted, 0.1081924462),
        (reference.cross_entropy(rows, y).mean(), 0.2362290232),
        (divergences, [0.0602951199, 0.0150927839, 0.0036364249]),
        (reference.info_nce(eye[:4, :4], 0.5), 0.3407529539),
        (reference.info_nce(eye, 1.0), 1.2740088362),
    ]
    for found, expected in found_and_expected:
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


def test_the_reference_is_right_at_a_thousand():
    z, y = np.array([[1000.0, 0, -1000]] * 3), np.arange(3)
    hot = np.eye(3)

    assert reference.cross_entropy(z, y).tolist() == [0, 1000, 2000]
    assert reference.focal(z, y, 2).tolist() == [0, 1000, 2000]
    assert reference.generalised(z, y, 0.5).tolist() == [0, 2, 2]
    assert reference.softmax_mse(z, y).tolist() == [0, 2, 2]
    assert reference.binary_cross_entropy(z[:1], hot[:1]).tolist() == [[0, np.log(2), 0]]
    assert reference.binary_cross_entropy(z[:1], hot[2:]).tolist() == [[1000, np.log(2), 1000]]
    assert reference.distillation(z, y, z, 1.0, 0.5).tolist() == [0, 500, 1000]
    assert reference.info_nce(z, 1.0) == 1000.0
    assert reference.binary_cross_entropy(np.array([50.0]), np.array([1.0]))[0] == np.exp(-50)
