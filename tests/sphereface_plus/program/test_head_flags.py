"""What the flags of heads mean."""

import pytest

from mhe.harness.flags import Parser
from sphereface_plus.program import head_flags

pytestmark = pytest.mark.one_backend


@pytest.mark.parametrize(
    ("flags", "looks_at_others"),
    [
        ("--model_name cosface", False),
        ("--model_name magface", False),
        ("--model_name sphereface_plus", False),
        ("--model_name sphereface_plus --energy_over batch", True),
        ("--model_name cosface --energy every --energy_over batch", True),
        ("--model_name cosface --class_share 0.1", True),
        ("--model_name adaface", True),
        ("--model_name curricularface", True),
    ],
)
def test_heads_that_look_at_the_rest_of_a_batch(flags, looks_at_others):
    parser = Parser("sphereface_plus/x.py", "Trains.")
    head_flags.add(parser, "sphereface")
    args, _ = parser.parse(flags.split())
    (args.model_name,) = args.model_name
    assert head_flags.looks_at_batches(args) is looks_at_others
