"""What each term of the objective does, on a small fixed budget: the same model, data, steps and seeds.

    python -m tok4d_bench.objectives -o runs/objectives --report benchmarks/results/objectives.json

Pictures of 64 px: emoji and icons of furniture. (a) L1; (b) + LPIPS; (c) + LPIPS + Gram; (d) + a perceptual teacher
(AlexNet, since CLIP's towers need a hub); (e) L1 + the sigmoid loss against captions; (f) FSQ instead of KL with L1,
and with (e). Held out: emoji of other groups, other objects, and four nouns that training never saw. About 20 CPU
minutes for three seeds; interrupted, it goes on where it stopped. A run of this size neither confirms nor refutes the
paper's claims at scale: it says what these terms do here.
"""
