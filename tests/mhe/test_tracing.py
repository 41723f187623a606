"""When a program is recorded that keeps one side of a condition."""

import keras
import pytest

from mhe.tracing import branch, keeps_one_branch


def test_steps_that_are_compiled_keep_both_branches():
    assert not keeps_one_branch()
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        seen = []
        tf.function(lambda: seen.append(keeps_one_branch()))()
        assert seen == [False]
    if keras.backend.backend() == "jax":
        import jax

        seen = []
        jax.jit(lambda: seen.append(keeps_one_branch()))()
        assert seen == [False]


# The tracer is deprecated, and what Keras exports with.
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the exporters are PyTorch's")
def test_programs_that_pytorch_exports():
    import torch

    seen = []

    class Program(torch.nn.Module):
        def forward(self, x):
            seen.append(keeps_one_branch())
            return x + 1

    sample = torch.zeros(2)
    torch.jit.trace(Program(), sample, check_trace=False)
    torch.export.export(Program(), (sample,), strict=False)
    assert seen
    assert all(seen)
    assert not keeps_one_branch()


def test_branch_takes_one_side_and_infers_shapes():
    ones = keras.ops.ones((2, 3))
    for limit, expected in ((0.0, 2.0), (2.0, 1.0)):
        found = branch(keras.ops.max(ones) > limit, lambda: (2.0 * ones,), lambda: (ones,))
        assert float(keras.ops.max(found[0])) == expected
    # Nothing is compiled, so the other side is not even called.
    branch(keras.ops.max(ones) > 2.0, lambda: pytest.fail("the wrong side"), lambda: ones)
    inputs = keras.Input((3,))
    outputs = keras.layers.Lambda(
        lambda x: branch(keras.ops.max(x) > 0.0, lambda: 2.0 * x, lambda: x)
    )(inputs)
    assert outputs.shape == (None, 3)
