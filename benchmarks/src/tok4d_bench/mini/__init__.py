"""The `mini` curriculum as an experiment: one model through four stages, floors, and models of one modality alone.

    python -m tok4d_bench.mini -o runs/mini                                    # tiny, seed 0: model and controls
    python -m tok4d_bench.mini -o runs/mini --presets tiny,small --seeds 0,1,2
    python -m tok4d_bench.mini -o runs/mini --report benchmarks/results/mini.json

Interrupted, the command goes on where it stopped; parts may also run as commands of their own (`--variants`). Expected
on two cores: about 15 minutes for the curriculum with `tiny`, three times that for `small`, as much again for the
controls of equal steps, and three times as much for those of equal compute.
"""
