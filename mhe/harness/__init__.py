"""What the training programs share: data, input pipeline, networks, runs.

The library itself never imports this package; the programs do, module by module.
"""
